//! Commands that need no server.

use std::path::Path;

use clap_complete::Shell;
use lib_chan::secret::{PrivateKey, PublicKey};

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
    let key = PrivateKey::generate().map_err(Failure::local)?;
    key.create_file(file)?;
    Ok(key.public_key())
}

pub(super) fn pubkey(file: &Path) -> Result<(), Failure> {
    print_line(&PrivateKey::from_file(file)?.public_key().to_string())
}

pub(super) fn save(name: &str, url: &str, replace: bool) -> Result<(), Failure> {
    let url: ChanUrl = url.parse().map_err(Failure::usage)?;
    if Bookmarks::of_user()?.save(bare(name), url, replace)? {
        return Ok(());
    }
    print_line(&format!("unchanged: {} has this URL already", bare(name)))
}

pub(super) fn list() -> Result<(), Failure> {
    let saved = Bookmarks::of_user()?.all()?;
    saved.iter().try_for_each(|(name, url)| print_line(&one_line(&format!("{name} {url}"))))
}

pub(super) fn delete(name: &str) -> Result<(), Failure> {
    Ok(Bookmarks::of_user()?.delete(bare(name))?)
}

/// Returns the name as saved: `@NAME`, as commands take it, is accepted too.
fn bare(name: &str) -> &str {
    name.strip_prefix('@').unwrap_or(name)
}

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "chan-client", &mut script);
    // The generator for bash uses two names for one subcommand if the name of the program has a hyphen.
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
    fn keygen_keeps_an_existing_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let public = new_key(&file).unwrap();
        assert_eq!(new_key(&file).unwrap_err().exit_code(), 2);
        assert_eq!(PrivateKey::from_file(&file).unwrap().public_key(), public);
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        for name in ["chan-client.1", "chan-client-call.1", "chan-client-forward.1"] {
            assert!(directory.path().join(name).exists(), "{name}");
        }
    }
}
