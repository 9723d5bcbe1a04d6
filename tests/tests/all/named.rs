//! ARCHITECTURE.md names tests and functions that exist. A row without its test would promise what nobody checks.

use std::{fs, path::Path};

use super::pages::{root, text_of};

/// Appends all Rust code of the folder.
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

/// Returns the words in backticks in the last column of all tables that can be names of functions.
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

/// The part of the map below a heading.
fn section(heading: &str) -> String {
    let map = text_of("ARCHITECTURE.md");
    let (_, rest) = map.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

#[test]
fn rules_of_the_map_are_in_their_files() {
    let section = section("Where a rule lives");
    let mut rules = 0;
    for row in section.lines().filter(|line| line.starts_with('|') && line.contains(".rs`")) {
        let cells = row.split('`').collect::<Vec<_>>();
        let [_, file, _, function, _] = cells[..] else { panic!("{row}") };
        let code = fs::read_to_string(root().join(file)).unwrap();
        assert!(code.contains(&format!("fn {function}(")), "{file} has no function {function}: {row}");
        rules += 1;
    }
    assert!(rules >= 20, "only {rules} rules are listed");
}

#[test]
fn tests_of_the_map_exist() {
    let mut code = String::new();
    for folder in ["lib_chan/src", "lib_chan/tests", "chan-server", "chan-client", "tests/tests"] {
        sources(&root().join(folder), &mut code);
    }
    let endings = section("Who is told what, and when");
    let named = named(&endings);
    assert!(named.len() >= 30, "only {} tests are named", named.len());
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "ARCHITECTURE.md names {name}, which is not there");
    }
}
