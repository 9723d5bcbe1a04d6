//! The planted bugs can be planted: a patch that the code has moved away from proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use chan_tests::available;

fn patches(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "patch")).collect()
}

#[test]
fn every_planted_bug_applies_to_the_code_as_it_is() {
    if !available("git") {
        return;
    }
    let patches = [patches("planted"), patches("planted/interleavings")].concat();
    assert!(patches.len() > 60, "they are found");
    for patch in patches {
        let mut apply = Command::new("git");
        apply.args(["apply", "--check"]).arg(&patch);
        let applied = apply.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }
}

#[test]
fn every_planted_bug_has_its_row_in_the_table() {
    let table =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("planted/README.md")).unwrap();
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| `")?.get(..2)).collect();
    let mut names: Vec<_> = patches("planted")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().split('_').next().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    assert_eq!(rows, names);
}
