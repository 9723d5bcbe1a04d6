//! The example programs as they are run.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use chan_tests::{Folder, Lines, PASSWORD, Running, program, run};

fn example(name: &str, home: &Folder) -> Command {
    let mut example = Command::new(program(&format!("examples/{name}")));
    example.env("HOME", home.path()).env_remove("XDG_STATE_HOME").stdin(Stdio::null());
    example
}

/// A server, and the arguments by which it says that its client reaches it.
fn serve(name: &str, home: &Folder) -> (Running, [String; 2]) {
    let server = Running::start(example(name, home));
    let line = server.out.wait("a command", |line| line.starts_with("cargo run"));
    let (_, arguments) = line.split_once(" -- ").unwrap();
    let (url, password_file) = arguments.split_once(' ').unwrap();
    let bare = |text: &str| text.trim_matches('\'').to_owned();
    let arguments = [bare(url), bare(password_file)];
    (server, arguments)
}

#[test]
fn echo_says_hello() {
    let home = Folder::new();
    let (code, out, complaint) = run(&mut example("echo", &home));
    assert_eq!((code, out.as_str()), (Some(0), "hello\n"), "{complaint}");
}

#[test]
fn name_server_keeps_names() {
    let home = Folder::new();
    let (server, arguments) = serve("name_server", &home);
    let client = |rest: &[&str]| run(example("name_client", &home).args(&arguments).args(rest));
    assert_eq!(client(&["joe", "writing a book"]), (Some(0), String::new(), String::new()));
    assert_eq!(client(&["joe"]), (Some(0), "writing a book\n".into(), String::new()));
    let (code, _, complaint) = client(&["mike"]);
    assert_eq!(code, Some(1));
    assert!(complaint.contains("nobody has stored mike"), "{complaint}");
    server.signal("INT");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn own_service_ends_with_ctrl_c() {
    let home = Folder::new();
    home.write("names.password", PASSWORD);
    let mut command = example("own_service", &home);
    command.current_dir(home.path());
    let server = Running::start(command);
    let url = server.out.wait("a URL", |line| line.starts_with("chan://"));
    let mut client = Command::new(program("chan-client"));
    client.args(["receive", "-v", &url, "--password-file"]).arg(home.path().join("names.password"));
    client.env("HOME", home.path());
    let client = Running::start(client);
    client.err.wait("the opening", |line| line.contains("the session is open"));
    server.signal("INT");
    client.err.wait("the reason", |line| line.contains("shutdown"));
    assert_eq!(server.code(), Some(0));
}

fn enter(home: &Folder, arguments: &[String], nick: &str) -> Running {
    let mut client = example("chat_client", home);
    client.args(arguments).args(["erlang", nick]);
    Running::start(client)
}

fn saw(out: &Lines, text: &str) {
    out.wait(text, |line| line.contains(text));
}

#[test]
fn two_chat_and_learn_why_it_is_over() {
    let home = Folder::new();
    let (server, arguments) = serve("chat_server", &home);
    let mut joe = enter(&home, &arguments, "joe");
    saw(&joe.out, "* you are the first in erlang");
    let mut mike = enter(&home, &arguments, "mike");
    saw(&mike.out, "* in erlang: joe");
    saw(&joe.out, "* mike joined");
    joe.stdin.as_mut().unwrap().write_all(b"hello mike\n/who\n").unwrap();
    saw(&joe.out, "* joe, mike");
    saw(&mike.out, "joe: hello mike");
    mike.stdin.as_mut().unwrap().write_all(b"hello joe\n").unwrap();
    saw(&joe.out, "mike: hello joe");
    // The end of its input is how one leaves.
    assert_eq!(mike.code(), Some(0));
    saw(&joe.out, "* mike left (normal)");
    server.signal("INT");
    saw(&joe.out, "* the chat is over (shutdown)");
    assert_eq!(joe.code(), Some(1));
    assert_eq!(server.code(), Some(0));
}
