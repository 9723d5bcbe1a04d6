//! The planted bugs can be planted: a patch that the code has moved away from proves nothing.

use std::path::PathBuf;
use std::process::Command;

use chan_tests::available;

use super::pages::{root, text_of};

fn patches(folder: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "patch")).collect()
}

#[test]
fn every_planted_bug_applies_to_the_code_as_it_is() {
    if !available("git") {
        return;
    }
    let patches = [patches("tests/planted"), patches("tests/planted/interleavings")].concat();
    assert!(patches.len() > 60, "they are found");
    for patch in patches {
        let mut apply = Command::new("git");
        apply.args(["apply", "--check"]).arg(std::path::absolute(&patch).unwrap());
        let applied = apply.current_dir(root()).output().unwrap();
        let said = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success(), "{}: {said}", patch.display());
    }
}

#[test]
fn every_planted_bug_has_its_row_in_the_table() {
    let table = text_of("tests/planted/README.md");
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| `")?.get(..2)).collect();
    let mut names: Vec<_> = patches("tests/planted")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().split('_').next().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    assert_eq!(rows, names);
}
