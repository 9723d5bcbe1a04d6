//! Every command on the pages is run as it stands there, and prints what stands below it.
//!
//! A page is gone through from top to bottom in a folder and home of its own, as its reader would: what it shows as a
//! configuration is written or checked, what runs on is started beside, all of it ends with the page. In what should
//! be printed, `…` is anything. In a command or a configuration it stands for what was printed before: the latest word
//! that is otherwise the same.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use chan_tests::{Folder, Running, available, program};

use super::relay::{redis, tcp_in_front_of};

/// What a page says, what is done in the test, and why.
const STAND_INS: &[(&str, &str, &str)] = &[
    ("cargo build --release && ", "", "the tests were built along with the programs"),
    ("cargo run --release -p chan-examples --example own_client -- ", "$EXAMPLES/own_client ", "built too"),
    ("cargo run --release -p chan-examples --example ", "$EXAMPLES/", "built too"),
    ("cargo run -q -p chan-examples --example ", "$EXAMPLES/", "built too"),
    ("port = 1234", "port = 0", "a port that is free"),
    ("forward 6379", "forward 0", "a port that is free"),
    (
        "redis-cli ping",
        "listening='127.0.0.1:…'; redis-cli -p ${listening##*:} ping",
        "the port that was free",
    ),
    ("db.example.net", "localhost", "a host that there is"),
];

/// Ports of the pages. In what is printed they are any port, those above being others.
const PORTS: &[&str] = &[":1234", ":1235", ":6379"];

/// What is not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo test --workspace", "it runs this test"),
    (".ci/run", "it installs packages, and runs this test"),
    ("bench/run", "it builds a workspace of its own, and measures for long"),
    ("bench/growth", "it builds a workspace of its own, and measures for long"),
    ("bench/network", "it builds a workspace of its own, and needs root for network namespaces"),
    ("cargo install cargo-fuzz", "it installs a program"),
    (
        "cargo fuzz run --sanitizer none payload -- -max_total_time=60 -rss_limit_mb=512 -max_len=65536",
        "it builds a workspace of its own, for a minute of fuzzing; `.ci/run` does that",
    ),
];

/// What goes on until it is told to stop, by how it begins.
const RUNS_ON: &[&str] =
    &["target/release/chan-server", "chan-server serve", "chan-client forward", "$EXAMPLES/own_service"];

/// What a page shows as a configuration.
enum Shown {
    /// Of this name.
    File(&'static str),
    /// Without what is here put in front.
    Part(&'static str),
    /// Part of this workspace's own manifest.
    Manifest,
}

/// The configurations of each page, in their order.
const CONFIGURATIONS: &[(&str, &[Shown])] = &[
    ("README.md", &[Shown::Manifest]),
    (
        "docs/redis-from-another-host.md",
        &[
            Shown::File("chan-server.toml"),
            Shown::Part(
                "port = 1234\n[[service]]\nname = \"redis\"\nmfa = [\"tcp\", \"connect\", \"127.0.0.1:6379\"]\n",
            ),
            Shown::Part("port = 1234\n"),
        ],
    ),
    ("docs/migrating-from-erlang.md", &[Shown::Part("")]),
    (
        "docs/operating.md",
        &[
            Shown::Part(""),
            Shown::Part("port = 1234\n"),
            Shown::Part(
                "port = 1234\n[[service]]\nname = \"redis\"\nmfa = [\"tcp\", \"connect\", \"127.0.0.1:6379\"]\n\
                 [[service.client]]\nname = \"joe\"\nkey = \"ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n",
            ),
        ],
    ),
];

#[test]
fn readme_works_as_written() {
    let mut reader = Reader::new();
    reader.read("README.md");
    // "Paste the printed commands into another terminal."
    let pasted: Vec<_> =
        reader.printed.iter().filter_map(|line| line.strip_prefix("  ")).map(String::from).collect();
    let answers = pasted.iter().map(|command| reader.run(command)).collect::<Vec<_>>();
    assert_eq!(answers, [vec![], vec![r#""writing a book""#.to_owned()], vec![r#""hello""#.to_owned()]]);
}

#[test]
fn redis_page_works_as_written() {
    if !available("redis-server") || !available("redis-cli") {
        return;
    }
    let folder = Folder::new();
    let (_redis, socket) = redis(&folder);
    let mut reader = Reader::new();
    reader.stand_ins.push(("\"127.0.0.1:6379\"", format!("\"127.0.0.1:{}\"", tcp_in_front_of(socket))));
    reader.read("docs/redis-from-another-host.md");
}

#[test]
fn other_pages_work_as_written() {
    let redis = "docs/redis-from-another-host.md";
    for page in pages().iter().filter(|page| !["README.md", redis].contains(&page.as_str())) {
        Reader::new().read(page);
    }
}

#[test]
fn erlang_of_processes_page_prints_as_shown() {
    if !available("escript") {
        return;
    }
    let page = text_of("docs/processes.md");
    let blocks = blocks(&page);
    let (_, module) = blocks.iter().find(|(language, _)| *language == "erlang").expect("it is shown");
    let folder = Folder::new();
    // `escript` wants a first line of its own and `main/1`.
    let script = format!("#!/usr/bin/env escript\n{module}\nmain(_) -> main().\n");
    let file = folder.write("counter.erl", &script.replace("-export([main/0]).", "-export([main/1])."));
    let (code, printed, complaint) = chan_tests::run(Command::new("escript").arg(file));
    assert_eq!(code, Some(0), "{complaint}");
    let said: Vec<_> = printed.lines().map(|line| format!("`{line}`")).collect();
    let [first, second, third] = said.as_slice() else { panic!("{printed}") };
    assert!(page.contains(&format!("It prints {first}, {second} and {third}.")), "{printed}");
}

#[test]
fn tables_of_this_test_match_pages() {
    let all: String = pages().iter().map(|page| text_of(page)).collect();
    for (command, _) in NOT_RUN {
        assert!(all.contains(&format!("\n$ {command}\n")), "nowhere: {command}");
    }
    for (said, ..) in STAND_INS {
        assert!(all.contains(said), "nowhere: {said}");
    }
    let patterns = ["a…c", "…", "…c", "a…", "a…b…c", "abc"];
    assert!(patterns.iter().all(|pattern| is_like(pattern, "abc")));
    assert!(["a…b", "…d", "b…", "ab…bc", "ab", ""].iter().all(|pattern| !is_like(pattern, "abc")));
}

/// Every page that shows a command or a configuration, wherever it is.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the project") {
            let entry = entry.expect("a file of the project");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}{name}");
            if entry.file_type().expect("its type").is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path + "/");
                }
            } else if path.ends_with(".md") && shows_something(&text_of(&path)) {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn shows_something(page: &str) -> bool {
    blocks(page).iter().any(|(language, _)| ["console", "toml"].contains(language))
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(super) fn text_of(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of a page, those of lists among them: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let (mut blocks, mut open, mut at) = (Vec::new(), None, 0);
    for line in page.split_inclusive('\n') {
        if let Some(language) = line.trim().strip_prefix("```") {
            match open.take() {
                None => open = Some((language, at + line.len())),
                Some((language, begin)) => blocks.push((language, &page[begin..at])),
            }
        }
        at += line.len();
    }
    blocks
}

/// The commands of a console: each with the lines that it should print.
fn commands(console: &str) -> Vec<(&str, Vec<&str>)> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in console.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, Vec::new())),
            (None, Some((_, printed))) => printed.push(line),
            (None, None) => panic!("a console begins with a command, not with {line}"),
        }
    }
    commands
}

/// Whether the text is the pattern, in which `…` is anything.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| is_like(after, &rest[at..]))
        }),
    }
}

/// Words as a shell and TOML have them.
fn words(line: &str) -> impl DoubleEndedIterator<Item = &str> {
    line.split([' ', '\'', '"', '\n']).filter(|word| !word.is_empty())
}

/// Somebody new, with an empty folder, an empty home and a shell.
struct Reader {
    folder: Folder,
    shell: Running,
    /// How many commands the shell has run.
    count: usize,
    /// What was printed so far.
    printed: Vec<String>,
    /// What goes on beside.
    beside: Vec<Running>,
    stand_ins: Vec<(&'static str, String)>,
}

impl Reader {
    fn new() -> Self {
        let folder = Folder::new();
        let [release, home] = ["target/release", "home"].map(|name| folder.path().join(name));
        for made in [&release, &home] {
            fs::create_dir_all(made).expect("a folder");
        }
        for name in ["chan-server", "chan-client"] {
            symlink(program(name), release.join(name)).expect("a link");
        }
        let mut shell = Command::new("sh");
        shell.current_dir(folder.path());
        Self::at_home(&mut shell, &folder);
        let shell = Running::start(shell);
        let stand_ins = STAND_INS.iter().map(|(said, done, _)| (*said, (*done).to_owned())).collect();
        Self { folder, shell, count: 0, printed: Vec::new(), beside: Vec::new(), stand_ins }
    }

    fn at_home(command: &mut Command, folder: &Folder) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", folder.path().join("target/release").display()));
        command.env("HOME", folder.path().join("home"));
        command.env("EXAMPLES", program("examples/own_client").parent().expect("a folder"));
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "RUST_BACKTRACE"]
        {
            command.env_remove(name);
        }
    }

    /// Does all that a page says.
    fn read(&mut self, page: &str) {
        let text = text_of(page);
        let none: &[Shown] = &[];
        let shown = CONFIGURATIONS.iter().find(|(name, _)| *name == page).map_or(none, |(_, shown)| *shown);
        let mut shown = shown.iter();
        for (language, block) in blocks(&text) {
            match language {
                "console" => {
                    commands(block).into_iter().for_each(|(command, prints)| self.follow(command, &prints))
                }
                "toml" => {
                    let shown = shown.next().unwrap_or_else(|| panic!("what is this, in {page}?\n{block}"));
                    self.configure(shown, block);
                }
                _ => {}
            }
        }
        assert!(shown.next().is_none(), "a configuration is missing in {page}");
    }

    /// Runs a command of a page and looks at what it prints.
    fn follow(&mut self, command: &str, prints: &[&str]) {
        if NOT_RUN.iter().any(|(not_run, _)| *not_run == command) {
            return;
        }
        let done = self.as_done(command);
        let printed = match RUNS_ON.iter().any(|runs_on| done.starts_with(runs_on)) {
            true => self.run_beside(&done, prints.len()),
            false => self.run(&done),
        };
        let should: Vec<_> = prints.iter().map(|line| self.as_printed(line)).collect();
        let alike = should.len() == printed.len() && should.iter().zip(&printed).all(|(s, p)| is_like(s, p));
        assert!(
            alike,
            "$ {command}\nshould print\n{}\nand prints\n{}",
            should.join("\n"),
            printed.join("\n")
        );
        self.printed.extend(printed);
    }

    fn configure(&mut self, shown: &Shown, block: &str) {
        match shown {
            Shown::File(name) => {
                let text = self.as_done(block);
                let place = self.run("pwd").concat();
                fs::write(Path::new(&place).join(name), text).expect("a configuration");
            }
            Shown::Manifest => {
                let manifest = text_of("Cargo.toml");
                for line in block.lines() {
                    assert!(manifest.lines().any(|own| own == line), "not in Cargo.toml: {line}");
                }
            }
            Shown::Part(before) => {
                let part = self.folder.write("part.toml", &self.as_done(&format!("{before}{block}")));
                for line in block.lines() {
                    if let Some(file) = line.strip_prefix("password_file = ") {
                        self.folder.write(file.trim_matches('"'), "a password of some length\n");
                    }
                }
                let printed = self.run(&format!("chan-server check --config {}", part.display()));
                assert!(printed.last().is_some_and(|line| line.ends_with("no mistakes")), "{printed:?}");
            }
        }
    }

    /// What is done where a page says this.
    fn as_done(&self, said: &str) -> String {
        let stand_ins = self.stand_ins.iter();
        let mut done = stand_ins.fold(said.to_owned(), |said, (from, to)| said.replace(from, to));
        let open: Vec<_> =
            words(said).chain(words(&done)).filter(|word| word.contains('…')).map(String::from).collect();
        for word in open {
            let pattern = self.as_printed(&word);
            let printed = self.printed.iter().rev().flat_map(|line| words(line).rev());
            if let Some(like) = printed.into_iter().find(|printed| is_like(&pattern, printed)) {
                done = done.replace(&word, like);
            }
        }
        assert!(!done.contains('…'), "nothing was printed that `…` could stand for in: {done}");
        done
    }

    /// What is printed where a page says this, ports left open.
    fn as_printed(&self, said: &str) -> String {
        let host = said.replace("db.example.net", "localhost");
        PORTS.iter().fold(host, |said, port| said.replace(port, ":…"))
    }

    /// Runs a command to its end, which has to be a good one: what it printed.
    fn run(&mut self, command: &str) -> Vec<String> {
        self.count += 1;
        let end = format!("-- end of command {}", self.count);
        let before = self.shell.out.all().len();
        let shell = self.shell.stdin.as_mut().expect("the shell has an input");
        writeln!(shell, "{{ {command}\n}} </dev/null; printf '%s: %s\\n' '{end}' $?")
            .expect("the shell lives");
        let code = self.shell.out.wait(&end, |line| line.starts_with(&end));
        let printed = self.shell.out.all();
        let complaints = || self.shell.err.all().join("\n");
        assert!(code.ends_with(": 0"), "$ {command}\n{}\n{}", printed[before..].join("\n"), complaints());
        printed[before..printed.len() - 1].to_vec()
    }

    /// Starts a command that goes on until the page ends: the lines that it is waited for.
    fn run_beside(&mut self, command: &str, lines: usize) -> Vec<String> {
        let place = self.run("pwd").concat();
        let mut beside = Command::new("sh");
        beside.args(["-c", &format!("exec {command}")]).current_dir(place);
        Self::at_home(&mut beside, &self.folder);
        let beside = Running::start(beside);
        let complaints = beside.err.clone();
        beside.out.wait_for(&format!("{lines} lines of {command} ({:?})", complaints.all()), |printed| {
            printed.len() >= lines
        });
        let printed = beside.out.all();
        self.beside.push(beside);
        printed
    }
}
