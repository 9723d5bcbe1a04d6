//! Standard streams that are gone, full or non-blocking, and signals: what the programs do is the same.

use std::{
    fs::File,
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe},
    os::fd::AsFd,
    process::{Command, Stdio},
    thread,
};

use chan_tests::{Folder, NAMES_AND_ECHO, Running, Server, program};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A pipe that nobody reads.
fn gone() -> PipeWriter {
    pipe().expect("a pipe").1
}

/// A pipe that is full, and whose reader reads nothing as long as it is held.
fn full() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    set_non_blocking(&writer, true);
    while writer.write(&[0; 4096]).is_ok() {}
    set_non_blocking(&writer, false);
    (reader, writer)
}

/// For all who share the stream.
fn set_non_blocking(stream: impl AsFd, on: bool) {
    let mut flags = fcntl_getfl(&stream).expect("its flags");
    flags.set(OFlags::NONBLOCK, on);
    fcntl_setfl(&stream, flags).expect("its flags");
}

/// Exit codes of commands whose standard error is this.
fn codes_with(server: &Server, stderr: impl Fn() -> Stdio) {
    let password = server.folder.path().join("password");
    let mut ping = server.client_at("ping", "chan://127.0.0.1:1/x?tofu", &password);
    assert_eq!(ping.stderr(stderr()).status().unwrap().code(), Some(3));
    let mut check = Command::new(program("chan-server"));
    check.args(["check", "--config", "/nowhere/chan-server.toml"]);
    assert_eq!(check.stderr(stderr()).status().unwrap().code(), Some(2));
    let mut call = server.client("call", "echo");
    call.args(["1", "-v"]).stderr(stderr()).stdout(Stdio::piped());
    let called = call.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((called.status.code(), called.stdout.as_slice()), (Some(0), &b"1\n"[..]));
}

#[test]
fn a_lost_standard_error_changes_no_exit_code() {
    let server = Server::start(NAMES_AND_ECHO);
    codes_with(&server, || gone().into());
    codes_with(&server, || File::options().write(true).open("/dev/full").unwrap().into());
    let (_reader, writer) = full();
    codes_with(&server, || writer.try_clone().unwrap().into());
}

#[test]
fn reads_and_writes_streams_made_non_blocking() {
    let server = Server::start(NAMES_AND_ECHO);
    let (input, mut to_input) = pipe().unwrap();
    let (mut from_output, output) = pipe().unwrap();
    set_non_blocking(&input, true);
    set_non_blocking(&output, true);
    let mut client = server.client("pipe", "echo").stdin(input).stdout(output).spawn().unwrap();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    let wanted = sent.clone();
    let feeding = thread::spawn(move || to_input.write_all(&sent));
    let mut received = Vec::new();
    from_output.read_to_end(&mut received).unwrap();
    feeding.join().unwrap().unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert!(received == wanted, "{} of {} bytes", received.len(), wanted.len());
}

#[test]
fn logs_to_full_non_blocking_stream() {
    let folder = Folder::new();
    folder.write("password", "correct horse battery");
    folder.write("c.toml", &format!("listen = ['127.0.0.1:0']\n{NAMES_AND_ECHO}"));
    let (log, writer) = full();
    set_non_blocking(&writer, true);
    let mut serve = Command::new(program("chan-server"));
    serve.args(["serve", "--config", "c.toml", "--state", "state"]).current_dir(folder.path());
    let mut server = serve.stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
    drop(serve);
    let mut printed = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(printed.next().unwrap().unwrap().starts_with("Listening on "));
    // Now there is room, for lines that had none until here.
    let lines = BufReader::new(log).lines().map(|line| line.unwrap().trim_start_matches('\0').to_owned());
    let before: Vec<_> = lines.take_while(|line| !line.contains("\"listening\"")).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(
        before.iter().all(|line| line.starts_with("{\"time\"") && !line.contains("\"lost\"")),
        "{before:?}"
    );
    assert!(before.iter().any(|line| line.contains("\"starting\"")), "{before:?}");
}

#[test]
fn prints_to_full_non_blocking_output() {
    let server = Server::start(NAMES_AND_ECHO);
    let (mut from_output, output) = pipe().unwrap();
    set_non_blocking(&output, true);
    let text = format!("\"{}\"", "x".repeat(500_000));
    let message = server.folder.write("message", &text);
    // The command holds its end of the pipe, and is dropped.
    let mut client =
        server.client("repl", "echo").stdin(File::open(message).unwrap()).stdout(output).spawn().unwrap();
    let mut received = String::new();
    from_output.read_to_string(&mut received).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert!(received == format!("{text}\n"), "{} bytes", received.len());
}

#[test]
fn receive_ends_quietly_when_its_reader_goes() {
    let server = Server::start(NAMES_AND_ECHO);
    let (reader, output) = pipe().unwrap();
    let client = server.client("receive", "names").stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    server.event("session_started");
    drop(reader);
    let ended = client.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn handles_signal_while_output_is_stuck() {
    let server = Server::start(NAMES_AND_ECHO);
    let (_reader, output) = full();
    let mut client = server.client("call", "echo");
    client.args(["1", "-v"]).stdout(output.try_clone().unwrap());
    let client = Running::start_on(client);
    client.err.wait("the session", |line| line.contains("the session is open"));
    server.event("session_started");
    // Whether it waits for the answer by then or writes it.
    client.signal("INT");
    let complaint = client.err.wait("the end", |line| line.contains("interrupted"));
    assert!(complaint.contains("executed"), "{complaint}");
    assert_eq!(client.code(), Some(130));
}

/// A program as process 1 of a container; `None` where this machine makes none.
fn as_process_1(command: &Command) -> Option<Command> {
    let mut container = Command::new("unshare");
    let unshare = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
    if !container
        .args(unshare)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("skipped: no process namespaces here");
        return None;
    }
    let mut container = Command::new("unshare");
    container.args(unshare).arg(command.get_program()).args(command.get_args());
    Some(container)
}

#[test]
fn process_1_ends_at_signal() {
    let server = Server::start(NAMES_AND_ECHO);
    let mut forward = Command::new(program("chan-client"));
    forward.args(["forward", "0", server.url("echo"), "--password-file"]);
    forward.arg(server.folder.path().join("password"));
    let Some(container) = as_process_1(&forward) else { return };
    let client = Running::start(container);
    client.out.wait("listening", |line| line.contains("listening"));
    client.signal_child("TERM");
    assert_eq!(client.code(), Some(0));
}
