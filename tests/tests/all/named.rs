//! What pages point to is there: a row whose test is gone promises what nobody checks.

use std::{fs, path::Path};

use super::pages::{root, text_of};

/// All Rust of the folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// What stands in backticks in the last column of the tables of a text, if it can be the name of a function.
fn named(text: &str) -> Vec<&str> {
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.trim_end().strip_suffix('|'));
    let last = rows.filter_map(|row| row.rsplit('|').next());
    let words = last.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words
        .filter(|word| {
            word.contains('_') && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        })
        .collect()
}

#[test]
fn every_test_that_a_table_names_is_there() {
    let mut code = String::new();
    for folder in ["lib_chan/src", "lib_chan/tests", "chan-server", "chan-client", "tests/tests"] {
        sources(&root().join(folder), &mut code);
    }
    let endings = text_of("ARCHITECTURE.md");
    let endings =
        endings.split("## Who is told what, and when").nth(1).unwrap().split("\n## ").next().unwrap();
    let named = named(endings);
    assert!(named.len() >= 30, "only {} tests are named", named.len());
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "ARCHITECTURE.md names {name}, which is not there");
    }
}
