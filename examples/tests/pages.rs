//! The programs on the pages are the examples, so they compile.

/// The blocks of this language in a page.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let opening = format!("```{language}\n");
    let blocks = page.split(opening.as_str()).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// An example without what concerns this workspace alone: its first line and its lint.
fn shown(example: &str) -> &str {
    example.splitn(5, '\n').last().unwrap_or_default()
}

#[test]
fn the_programs_of_the_readme_are_examples() {
    let programs = blocks(include_str!("../../README.md"), "rust");
    assert_eq!(programs.len(), 2);
    assert_eq!(programs[0], shown(include_str!("../examples/own_service.rs")));
    assert_eq!(programs[1], shown(include_str!("../examples/own_client.rs")));
}

#[test]
fn the_programs_of_the_page_on_processes_are_examples() {
    let programs = blocks(include_str!("../../docs/processes.md"), "rust");
    assert_eq!(programs.len(), 2);
    assert_eq!(programs[0], shown(include_str!("../examples/counter.rs")));
    assert_eq!(programs[1], shown(include_str!("../examples/counter_without.rs")));
}
