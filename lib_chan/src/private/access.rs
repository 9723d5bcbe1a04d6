//! Permissions of secret files: which users can read a file, and whether this process is the only one.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::{StatVfsMountFlags, fstatvfs};

/// The reason why a file is not private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// The permission bits.
    pub(super) mode: u32,
    /// Whether the user of this process may change the permissions.
    pub(super) can_mend: bool,
}

/// Returns the reason why a file is not private, if there is one.
pub(super) fn excess(path: &Path, file: &File) -> io::Result<Option<Excess>> {
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o7777;
    // Reading the groups is not needed in the common case.
    if mode & 0o077 == 0 {
        return Ok(None);
    }
    let access = Access {
        mode,
        is_ours: metadata.uid() == rustix::process::geteuid().as_raw(),
        is_roots: metadata.uid() == 0,
        group: unix::group(metadata.gid()),
        is_handed_over: unix::is_handed_over(path, &metadata),
    };
    if access.is_private() {
        return Ok(None);
    }
    let read_only = fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    Ok(Some(Excess { mode, can_mend: access.is_ours && !read_only }))
}

/// The facts that decide whether a file is private.
#[derive(Clone, Copy, Debug)]
struct Access {
    mode: u32,
    /// The file belongs to the user of this process.
    is_ours: bool,
    /// The file belongs to root, which controls the machine anyway.
    is_roots: bool,
    group: Group,
    /// The file is where the platform keeps the secrets of this process.
    is_handed_over: bool,
}

/// The group of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// This process does not have the group.
    Foreign,
    /// This process has the group, and other users may have it too.
    Shared,
    /// This process has the group, and no other user does.
    Alone,
}

impl Access {
    fn is_private(self) -> bool {
        if self.is_handed_over {
            return self.mode & 0o002 == 0;
        }
        let group_is_closed = self.mode & 0o070 == 0;
        let group_may = match self.group {
            Group::Foreign => false,
            // Root gave the file to this group for the process. Any other member of the group could have made such a
            // file, and could change one that the group may write.
            Group::Shared => !self.is_ours && self.is_roots && self.mode & 0o020 == 0,
            Group::Alone => true,
        };
        self.mode & 0o007 == 0 && (group_is_closed || group_may)
    }
}

mod unix {
    use std::{
        env, fs,
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
    };

    use rustix::process::{getegid, geteuid, getgroups};

    use super::Group;

    /// The places where Docker and Podman put secrets.
    const SECRETS: &str = "/run/secrets";

    /// Returns `true` if the file is where the platform keeps the secrets of this process.
    pub(super) fn is_handed_over(path: &Path, opened: &fs::Metadata) -> bool {
        let places = [env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from), Some(SECRETS.into())];
        is_handed_over_to(&places.into_iter().flatten().collect::<Vec<_>>(), path, opened)
    }

    /// Returns `true` if the opened file is below one of these places. Kubernetes has links there, which lead to
    /// files below the same directory. The path is resolved after the file was opened, so it must still lead to that
    /// file.
    pub(super) fn is_handed_over_to(places: &[PathBuf], path: &Path, opened: &fs::Metadata) -> bool {
        let Ok(path) = fs::canonicalize(path) else { return false };
        let is_same = |now: fs::Metadata| (now.dev(), now.ino()) == (opened.dev(), opened.ino());
        let mut places = places
            .iter()
            .filter(|place| place.is_absolute())
            .filter_map(|place| fs::canonicalize(place).ok());
        fs::metadata(&path).is_ok_and(is_same)
            // Every file is below the root directory.
            && places.any(|place| place.parent().is_some() && path.starts_with(place))
    }

    pub(super) fn group(gid: u32) -> Group {
        let ours = getegid().as_raw() == gid
            || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid));
        if !ours {
            return Group::Foreign;
        }
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (sources, users, groups) = (read("/etc/nsswitch.conf"), read("/etc/passwd"), read("/etc/group"));
        match only_local(&sources) && is_alone(gid, geteuid().as_raw(), &users, &groups) {
            true => Group::Alone,
            false => Group::Shared,
        }
    }

    /// Returns `true` if the files of this machine list all users and groups (nsswitch.conf(5)). Otherwise files
    /// cannot tell who else has a group.
    pub(super) fn only_local(sources: &str) -> bool {
        let databases = sources.lines().filter_map(|line| line.split('#').next()?.split_once(':'));
        databases
            .filter(|(database, _)| matches!(database.trim(), "passwd" | "group" | "initgroups"))
            .flat_map(|(_, sources)| sources.split_whitespace())
            // `systemd` knows users that exist while their service runs, and these have groups of their own.
            .all(|source| matches!(source, "files" | "compat" | "db" | "systemd") || source.starts_with('['))
    }

    /// Returns `true` if only the user has the group, by passwd(5) and group(5).
    pub(super) fn is_alone(gid: u32, uid: u32, users: &str, groups: &str) -> bool {
        let field = |line: &str, at| line.split(':').nth(at).and_then(|number| number.parse::<u32>().ok());
        let own_name = users.lines().find(|line| field(line, 2) == Some(uid));
        let own_name = own_name.and_then(|line| line.split(':').next());
        let no_other_user =
            users.lines().all(|line| field(line, 3) != Some(gid) || field(line, 2) == Some(uid));
        let mut members = groups
            .lines()
            .filter(|line| field(line, 2) == Some(gid))
            .filter_map(|line| line.split(':').nth(3))
            .flat_map(|members| members.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty());
        no_other_user && members.all(|member| Some(member) == own_name)
    }
}

#[cfg(test)]
mod tests {
    use super::unix::{is_alone, only_local};
    use super::*;

    fn is_private(mode: u32, is_ours: bool, group: Group, is_handed_over: bool) -> bool {
        // A file that does not belong to the process belongs to root.
        Access { mode, is_ours, is_roots: !is_ours, group, is_handed_over }.is_private()
    }

    #[test]
    fn refuses_every_bit_of_others() {
        for bit in [0o004, 0o002, 0o001] {
            for group in [Group::Foreign, Group::Shared, Group::Alone] {
                assert!(!is_private(0o600 | bit, true, group, false));
                assert!(!is_private(0o600 | bit, false, group, false));
            }
        }
    }

    #[test]
    fn takes_a_group_that_is_ours() {
        for mode in [0o440, 0o640, 0o660, 0o2770] {
            // Kubernetes gives a volume to `fsGroup`: files of root, and files that this process made.
            assert!(is_private(mode, true, Group::Alone, false));
            assert!(is_private(mode, false, Group::Alone, false));
            // Other users who have the group control a file that the group may write.
            assert_eq!(is_private(mode, false, Group::Shared, false), mode & 0o020 == 0);
            // The process can close its own file.
            assert!(!is_private(mode, true, Group::Shared, false));
            assert!(!is_private(mode, true, Group::Foreign, false));
            assert!(!is_private(mode, false, Group::Foreign, false));
        }
    }

    #[test]
    fn refuses_a_file_that_another_member_made() {
        let access = |is_roots| Access {
            mode: 0o440,
            is_ours: false,
            is_roots,
            group: Group::Shared,
            is_handed_over: false,
        };
        assert!(access(true).is_private());
        assert!(!access(false).is_private());
    }

    #[test]
    fn believes_a_place_only_for_the_opened_file() {
        let directory = tempfile::tempdir().unwrap();
        let (opened, now) = (directory.path().join("opened"), directory.path().join("now"));
        for path in [&opened, &now] {
            std::fs::write(path, "").unwrap();
        }
        let opened = std::fs::metadata(opened).unwrap();
        assert!(!unix::is_handed_over_to(&[directory.path().into()], &now, &opened));
        assert!(unix::is_handed_over_to(&[directory.path().into()], &now, &std::fs::metadata(&now).unwrap()));
    }

    #[test]
    fn accepts_secrets_of_platform() {
        for mode in [0o400, 0o440, 0o444, 0o644, 0o660] {
            assert!(is_private(mode, true, Group::Foreign, true));
            assert!(is_private(mode, false, Group::Foreign, true));
        }
        assert!(!is_private(0o666, true, Group::Foreign, true));
    }

    #[test]
    fn knows_who_else_has_a_group() {
        let users = "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\nmike:x:1001:100::/:\n";
        let groups = "root:x:0:\njoe:x:1000:\nusers:x:100:joe\nteam:x:200:joe,mike\nown:x:300:joe\n";
        // A group without a name is what `fsGroup` is in a container.
        for (gid, alone) in [(1000, true), (100, false), (200, false), (300, true), (2000, true), (0, false)]
        {
            assert_eq!(is_alone(gid, 1000, users, groups), alone, "{gid}");
        }
        assert!(is_alone(2000, 4711, "", ""));
    }

    #[test]
    fn trusts_the_files_only_where_they_are_all() {
        for (sources, only) in [
            ("", true),
            ("passwd: files systemd\ngroup: files [SUCCESS=merge] systemd # sss\nhosts: files dns\n", true),
            ("passwd: files sss\n", false),
            ("passwd: files\ngroup:\tcompat ldap\n", false),
        ] {
            assert_eq!(only_local(sources), only, "{sources}");
        }
    }
}
