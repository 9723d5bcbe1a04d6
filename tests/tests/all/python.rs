//! A client in Python that was written from PROTOCOL.md alone (`tests/python`), against the real server.

use std::{
    env,
    ffi::OsString,
    net::TcpListener,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use chan_tests::{Folder, Running, Server, program, run};

/// The interpreter, if it has what the client needs. Otherwise it says why not, or fails where nothing may be skipped.
pub(crate) fn python() -> Option<OsString> {
    let why = match env::var_os("CHAN_TEST_PYTHON") {
        None => {
            "CHAN_TEST_PYTHON names no interpreter with tests/python/requirements.txt installed".to_owned()
        }
        Some(python) => {
            let mut probe = Command::new(&python);
            probe.args(["-c", "import OpenSSL, argon2, cryptography"]).stdin(Stdio::null());
            match probe.output() {
                Ok(output) if output.status.success() => return Some(python),
                Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                Err(error) => error.to_string(),
            }
        }
    };
    assert!(
        env::var_os("CHAN_TEST_SKIP").is_none(),
        "the Python client cannot run, and nothing may be skipped: {why}"
    );
    eprintln!("skipped: {why}");
    None
}

/// A server with a password for the name server, for a Unix socket in `folder` and for the port of `target`, and a client
/// with a key for the echo.
fn server(folder: &Path, target: &TcpListener) -> Server {
    let keys = Folder::new();
    let file = keys.path().join("key");
    let (code, line, complaint) = run(Command::new(program("chan-client")).arg("keygen").arg(&file));
    assert_eq!(code, Some(0), "{complaint}");
    let key =
        line.split_whitespace().find(|word| word.starts_with("ed25519:")).expect("the line for the server");
    let server = Server::start(&format!(
        r#"
        [[service]]
        name = "name_server"
        password_file = "password"
        mfa = ["name_server", "start_me_up"]
        [[service]]
        name = "echo"
        mfa = ["echo", "start"]
        [[service.client]]
        name = "joe"
        key = "{key}"
        [[service]]
        name = "stream"
        password_file = "password"
        mfa = ["unix", "connect", {socket:?}]
        [[service]]
        name = "tcp"
        password_file = "password"
        mfa = ["tcp", "connect", "{tcp}"]
        [limits]
        heartbeat_interval = "1 s"
        "#,
        socket = folder.join("target"),
        tcp = target.local_addr().expect("its port"),
    ));
    let seed = std::fs::read_to_string(file).expect("the key that was made");
    server.folder.write("key", &seed);
    server
}

/// Runs the tests of a class, and tells them about the server. Their standard input is the listening socket `target`.
fn client(python: OsString, server: &Server, folder: &Path, target: TcpListener, class: &str) -> Command {
    let known = serde_json::json!({
        "name_server": server.url("name_server"),
        "echo": server.url("echo for joe"),
        "stream": server.url("stream"),
        "tcp": server.url("tcp"),
        "socket": folder.join("target"),
        "password_file": server.folder.path().join("password"),
        "key_file": server.folder.path().join("key"),
    });
    let mut client = Command::new(python);
    client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/test_client.py")).args(["-v", class]);
    client.env("CHAN_TEST", known.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    client.stdin(OwnedFd::from(target));
    client
}

fn passes(class: &str) {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = server(folder.path(), &target);
    let (code, out, complaints) = run(&mut client(python, &server, folder.path(), target, class));
    assert_eq!(code, Some(0), "{out}\n{complaints}");
    assert!(!complaints.contains("Ran 0 tests"), "{complaints}");
}

#[test]
fn python_client_computes_test_vectors() {
    passes("Vectors");
}

#[test]
fn python_client_uses_services() {
    passes("Sessions");
}

#[test]
fn python_client_resumes_its_sessions() {
    passes("Resumed");
}

#[test]
fn python_client_relays_streams() {
    passes("Streams");
}

#[test]
fn python_client_is_refused_and_refuses() {
    passes("Refusals");
}

#[test]
fn python_client_answers_shutdown() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut server = server(folder.path(), &target);
    let client = Running::start(client(python, &server, folder.path(), target, "ServerEnds"));
    client.out.wait("open", |line| line == "open");
    // Told twice it does not wait for the sessions to end by themselves.
    server.signal("TERM");
    server.event("draining");
    server.signal("TERM");
    let complaints = client.err.clone();
    assert_eq!(client.code(), Some(0), "{}", complaints.all().join("\n"));
    assert!(server.wait().success());
    assert_eq!(server.event("session_ended")["reason"], "shutdown");
}
