//! The programs on the pages are the examples, so they compile; and what the pages name exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The blocks of this language in a page.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let opening = format!("```{language}\n");
    let blocks = page.split(opening.as_str()).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// Returns an example without the lines that concern this workspace alone: the first one and the lint.
fn shown(example: &str) -> &str {
    let rest = example.split_once("\n\n").unwrap().1;
    rest.strip_prefix("#![expect").map_or(rest, |rest| rest.split_once("\n\n").unwrap().1)
}

/// Returns the number of lines that its user has to write.
fn lines_of_code(program: &str) -> usize {
    program.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[test]
fn the_programs_of_the_readme_are_examples() {
    let programs = blocks(include_str!("../../README.md"), "rust");
    assert_eq!(programs.len(), 3);
    assert_eq!(programs[0], shown(include_str!("../src/api.rs")));
    assert_eq!(programs[1], shown(include_str!("../examples/own_service.rs")));
    assert_eq!(programs[2], shown(include_str!("../examples/own_client.rs")));
    let lines: usize = programs.iter().map(|program| lines_of_code(program)).sum();
    assert!(lines <= 40, "service and client together take {lines} lines");
}

#[test]
fn programs_of_processes_page_are_examples() {
    let programs = blocks(include_str!("../../docs/processes.md"), "rust");
    assert_eq!(programs.len(), 2);
    assert_eq!(programs[0], shown(include_str!("../examples/counter.rs")));
    assert_eq!(programs[1], shown(include_str!("../examples/counter_without.rs")));
}

/// All Rust sources of the workspace's members, by path.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for member in ["lib_chan", "chan-server", "chan-client", "tests", "examples"] {
        collect(&root.join(member), &mut found);
    }
    found
}

fn all_sources() -> String {
    sources().into_iter().map(|(_, text)| text).collect()
}

/// CONTRIBUTING.md: about 500 lines.
#[test]
fn long_files_say_why_they_are_not_two() {
    let long = sources().into_iter().filter(|(_, text)| text.lines().count() > 600);
    let silent = long.filter(|(_, text)| {
        !text.lines().take(10).any(|line| line.starts_with("//! Longer than other files"))
    });
    let silent: Vec<_> = silent.map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_table_of_endings_names_tests_that_exist() {
    let page = include_str!("../../ARCHITECTURE.md");
    let table = page.split("| what happens | client |").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let sources = all_sources();
    let mut missing = Vec::new();
    for row in &rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "a row without a test: {row}");
        missing.extend(names.into_iter().filter(|name| !sources.contains(&format!("fn {name}("))));
    }
    assert!(rows.len() > 30);
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn table_of_rules_names_functions_that_exist() {
    let page = include_str!("../../ARCHITECTURE.md");
    let table = page.split("| rule | file | function |").nth(1).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let mut cells = row.trim_end_matches(" |").rsplit(" | ");
        let (functions, file) = (cells.next().unwrap(), cells.next().unwrap().trim_matches('`'));
        let source = fs::read_to_string(root.join(file)).unwrap_or_default();
        for function in functions.split('`').skip(1).step_by(2) {
            let exists = ["(", "<"].iter().any(|after| source.contains(&format!("fn {function}{after}")));
            assert!(exists, "{file} has no {function}");
        }
        rows += 1;
    }
    assert!(rows > 30);
}

#[test]
fn map_names_every_file_of_session() {
    let page = include_str!("../../ARCHITECTURE.md");
    let table = page.split("Within `session/`:").nth(1).unwrap().split("\n### ").next().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lib_chan/src/session");
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".rs") && name != "tests.rs" {
            assert!(table.contains(&format!("`{name}`")), "ARCHITECTURE.md does not mention {name}");
        }
    }
}
