//! Commands that need no server.

use std::path::Path;

use clap_complete::Shell;
use lib_chan::private::{self, quoted};
use lib_chan::secret::{PrivateKey, PublicKey, Secret};
use zeroize::Zeroizing;

use super::arguments::command;
use super::failure::Failure;
use super::print_line;
use crate::bookmark::Bookmarks;
use crate::json::one_line;
use crate::url::ChanUrl;

pub(super) fn keygen(file: &Path) -> Result<(), Failure> {
    print_line(&new_key(file)?.to_string())
}

fn new_key(file: &Path) -> Result<PublicKey, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *seed).map_err(|_| Failure::local("the system gave no random bytes"))?;
    let key = PrivateKey::from_seed(Secret::new(*seed)).map_err(Failure::local)?;
    private::create(file, key.to_file_contents().as_bytes())?;
    Ok(key.public_key())
}

pub(super) fn pubkey(file: &Path) -> Result<(), Failure> {
    print_line(&read_key(file)?.public_key().to_string())
}

/// A private key from its file.
pub(super) fn read_key(file: &Path) -> Result<PrivateKey, Failure> {
    let contents = private::read(file, PrivateKey::MAX_FILE_LEN)?;
    let named = |error| Failure::usage(format_args!("{}: {error}", quoted(file)));
    PrivateKey::from_file_contents(&contents).map_err(named)
}

pub(super) fn save(name: &str, url: &str, replace: bool) -> Result<(), Failure> {
    let url: ChanUrl = url.parse().map_err(Failure::usage)?;
    Ok(Bookmarks::of_user()?.save(bare(name), url, replace)?)
}

pub(super) fn list() -> Result<(), Failure> {
    let saved = Bookmarks::of_user()?.all()?;
    saved.iter().try_for_each(|(name, url)| print_line(&one_line(&format!("{name} {url}"))))
}

pub(super) fn delete(name: &str) -> Result<(), Failure> {
    Ok(Bookmarks::of_user()?.delete(bare(name))?)
}

/// A name as it is saved, for one that may be written as it is used.
fn bare(name: &str) -> &str {
    name.strip_prefix('@').unwrap_or(name)
}

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "chan-client", &mut script);
    // The generator for bash names a subcommand in two ways where the program's name has a hyphen.
    let script =
        String::from_utf8_lossy(&script).replace("chan__subcmd__client__subcmd__", "chan__client__subcmd__");
    print_line(script.trim_end())
}

pub(super) fn man(directory: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::usage(format_args!("cannot write to {}: {error}", directory.display()));
    clap_mangen::generate_to(command(), directory).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_can_be_read_and_is_a_new_one_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let keys = ["a", "b"].map(|name| {
            let file = directory.path().join(name);
            let public = new_key(&file).unwrap();
            let read =
                PrivateKey::from_file_contents(&private::read(&file, PrivateKey::MAX_FILE_LEN).unwrap())
                    .unwrap();
            assert_eq!(read.public_key(), public);
            public
        });
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        new_key(&file).unwrap();
        let contents = private::read(&file, PrivateKey::MAX_FILE_LEN).unwrap();
        assert_eq!(new_key(&file).unwrap_err().exit_code(), 2);
        assert_eq!(private::read(&file, PrivateKey::MAX_FILE_LEN).unwrap(), contents);
    }

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        for name in ["chan-client.1", "chan-client-call.1", "chan-client-forward.1"] {
            assert!(directory.path().join(name).exists(), "{name}");
        }
    }
}
