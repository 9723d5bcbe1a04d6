//! The program against servers on loopback: its output, its messages and its exit codes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use lib_chan::tls::Pin;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::server::{PASSWORD, Server, key};

/// A user with a home directory.
struct User {
    home: tempfile::TempDir,
    password_file: PathBuf,
}

/// The result of a command.
#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let password_file = secret_file(&home, "password", PASSWORD);
        Self { home, password_file }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chan-client"));
        command.args(arguments).env("XDG_CONFIG_HOME", self.home.path()).env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a command that needs the password.
    async fn run(&self, arguments: &[&str]) -> Done {
        let password_file = self.password_file.to_str().unwrap();
        self.run_bare(&[arguments, &["--password-file", password_file]].concat()).await
    }

    async fn run_bare(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).spawn().unwrap(), "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Done {
        let mut command = self.command(arguments);
        command.arg("--password-file").arg(&self.password_file).stdin(Stdio::piped());
        Done::of(command.spawn().unwrap(), input).await
    }
}

impl Done {
    async fn of(mut child: Child, input: &str) -> Self {
        let stdin = child.stdin.take();
        let writing = async {
            if let Some(mut stdin) = stdin {
                stdin.write_all(input.as_bytes()).await.unwrap();
            }
        };
        let ((), output) = tokio::join!(writing, child.wait_with_output());
        let output = output.unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn printed(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (0, out, ""));
    }

    /// It failed with this code and one line that has all of these in it.
    #[track_caller]
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str(), self.err.lines().count()), (code, "", 1), "{self:?}");
        assert!(self.err.starts_with("chan-client: "), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
    }
}

fn secret_file(home: &tempfile::TempDir, name: &str, contents: &str) -> PathBuf {
    let path = home.path().join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    file.write_all(contents.as_bytes()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn call_prints_answer_as_one_line() {
    let (server, user) = (Server::start().await, User::new());
    user.run(&["call", &server.url(), r#" {"Double": 21} "#]).await.printed("\"42\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_call_says_whether_executed() {
    let (server, user) = (Server::start().await, User::new());
    let url = server.url();
    let call = async |message: &str| user.run(&["call", &url, message, "--timeout", "2s"]).await;
    call("\"Refuse\"").await.failed(6, &["refused: no such number", "(not executed)"]);
    call("{\"Unknown\":1}").await.failed(6, &["json", "(not executed)"]);
    call("\"Crash\"").await.failed(7, &["failed: out of order", "(perhaps executed"]);
    call("\"Drop\"").await.failed(7, &["no answer", "(perhaps executed"]);
    call("\"Hang\"").await.failed(8, &["no answer in time; allow more with --timeout", "(perhaps executed"]);
    call("\"Cut\"").await.failed(9, &["the connection was lost", "(perhaps executed"]);
    call("{\"Long\":2000000}").await.failed(10, &["(executed: do not send it again)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connection_has_exit_code() {
    let (server, user) = (Server::start().await, User::new());
    let url = server.url();
    let call = async |url: &str| user.run(&["call", url, "1"]).await;
    call(&format!("chan://localhost:1/s?pin={}", server.pin))
        .await
        .failed(3, &["localhost:1", "refused", "(not executed)"]);
    call(&format!("chan://localhost:{}/s?pin={}", server.port, Pin([0; 32])))
        .await
        .failed(4, &[&server.pin.to_string(), "(not executed)"]);
    call(&url.replace("/s?", "/t?"))
        .await
        .failed(5, &["refused; check the password or key", "(not executed)"]);
    let start = async |args: &str| user.run(&["call", &url, "1", "--args", args]).await;
    start("\"refuse\"").await.failed(6, &["not today", "(not executed)"]);
    start("\"end\"").await.failed(7, &["shutdown", "(not executed)"]);
    let late = user.run(&["call", &url, "1", "--args", "\"hang\"", "--timeout", "500ms"]).await;
    late.failed(8, &["--timeout", "(not executed)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_wrong_usage_before_connecting() {
    let user = User::new();
    let url = "chan://localhost:1/s?tofu";
    user.run(&["call", "chan://localhost/s?tofu", "1"])
        .await
        .failed(2, &["character 17", "the port is missing"]);
    user.run(&["call", url, "{Double:1}"]).await.failed(2, &["line 1 column 2", "(nothing was sent)"]);
    user.run(&["call", url, "1", "--args", "x"]).await.failed(2, &["--args", "line 1 column 1"]);
    user.run(&["call", "@nothing", "1"]).await.failed(2, &["chan-client save NAME URL"]);
    let exposed = secret_file(&user.home, "exposed", PASSWORD);
    std::fs::set_permissions(&exposed, PermissionsExt::from_mode(0o644)).unwrap();
    let exposed = exposed.to_str().unwrap();
    let done = user.run_bare(&["call", url, "1", "--password-file", exposed]).await;
    done.failed(2, &[&format!("chmod 600 {exposed}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_no_secret() {
    let (server, user) = (Server::start().await, User::new());
    for arguments in [
        &["call", &server.url(), r#"{"Double":21}"#, "-v"][..],
        &["call", &server.url().replace("/s?", "/t?"), "1", "-v"],
        &["call", &format!("chan://joe:{PASSWORD}@localhost:1/s?tofu").replace(' ', ""), "1", "-v"],
    ] {
        let done = user.run(arguments).await;
        for word in PASSWORD.split(' ') {
            assert!(!done.out.contains(word) && !done.err.contains(word), "{done:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbose_shows_each_step() {
    let (server, user) = (Server::start().await, User::new());
    let done = user.run(&["call", &server.url(), r#"{"Double":21}"#, "-v"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "\"42\"\n"));
    for part in [
        "localhost has the addresses ",
        &format!("connected to 127.0.0.1:{}", server.port),
        &format!("TLS 1.3 with X25519MLKEM768; the server's key is {}", server.pin),
        "logged in with a password; frames of at most 1048576 bytes",
        "the session is open",
    ] {
        assert!(done.err.contains(part), "{part:?} is not in: {}", done.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cast_has_arrived_when_command_ends() {
    let (mut server, user) = (Server::start().await, User::new());
    user.run(&["cast", &server.url(), r#"{"Note":7}"#]).await.printed("");
    assert_eq!(server.noted.recv().await, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_logs_in() {
    let (server, user) = (Server::start().await, User::new());
    let done = user.run(&["ping", &server.url()]).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let (begin, end) =
        (format!("localhost:{}: let in after ", server.port), format!("by the key {}\n", server.pin));
    assert!(done.out.starts_with(&begin) && done.out.ends_with(&end), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_prints_messages_until_service_ends() {
    let (server, user) = (Server::start().await, User::new());
    let done = user.run(&["receive", &server.url(), "--args", "\"push\""]).await;
    done.printed("\"one\"\n\"two\\u009b\"\n\"three\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn repl_sends_lines_of_script_in_order() {
    let (mut server, user) = (Server::start().await, User::new());
    let input = "{\"Double\":1}\n! {\"Note\":5}\n\nnonsense\n\"Refuse\"\n{\"Double\":2}";
    let done = user.run_with_input(&["repl", &server.url()], input).await;
    let lines = done.out.lines().collect::<Vec<_>>();
    let ["\"2\"", wrong, refused, "\"4\""] = lines[..] else { panic!("{lines:?}") };
    assert!(wrong.starts_with("- line 4: the message is not JSON"), "{wrong}");
    assert!(refused.starts_with("- line 5: refused: no such number"), "{refused}");
    // In a script, a failed line fails the command, after all lines were sent.
    assert_eq!((done.code, done.err.lines().count()), (2, 1), "{done:?}");
    assert!(done.err.contains("2 of 6 lines failed, the first is line 4"), "{done:?}");
    assert_eq!(server.noted.recv().await, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_service_ends_repl() {
    let (server, user) = (Server::start().await, User::new());
    let mut command = user.command(&["repl", &server.url()]);
    command.arg("--password-file").arg(&user.password_file).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\"Crash\"\n").await.unwrap();
    // The input is still open.
    let done = Done::of(child, "").await;
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.out.contains("(perhaps executed"), "{done:?}");
    assert!(done.err.contains("failed: out of order"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_carries_both_directions_to_eof() {
    let (server, user) = (Server::start().await, User::new());
    let text = "a line\n".repeat(100_000);
    let done = user.run_with_input(&["pipe", &server.url()], &text).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out == text, "{} of {} bytes", done.out.len(), text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn forward_keeps_connections_and_directions_apart() {
    let (server, user) = (Server::start().await, User::new());
    // The service carries one stream in a session, and takes any arguments.
    let mut command = user.command(&["forward", "0", &server.url(), "--isolate"]);
    let mut child = command.arg("--password-file").arg(&user.password_file).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("listening on ").unwrap().to_owned();
    let carry = async |text: String| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        // The answer comes although this direction is closed.
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, text);
    };
    tokio::join!(carry("one".repeat(10_000)), carry("two".into()), carry(String::new()));
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forward_reports_wrong_password_first() {
    let (server, user) = (Server::start().await, User::new());
    let wrong = secret_file(&user.home, "wrong", "wrong horse");
    let url = server.url();
    let arguments = ["forward", "0", &url, "--password-file", wrong.to_str().unwrap()];
    user.run_bare(&arguments).await.failed(5, &["refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_file_logs_named_client_in() {
    let (server, user) = (Server::start().await, User::new());
    let file = secret_file(&user.home, "key", &key().to_file_contents());
    let url = server.url().replace("localhost", "joe@localhost");
    let arguments = ["call", &url, r#"{"Double":4}"#, "--key-file", file.to_str().unwrap()];
    user.run_bare(&arguments).await.printed("\"8\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn keygen_prints_public_key() {
    let user = User::new();
    let file = user.home.path().join("new");
    let done = user.run_bare(&["keygen", file.to_str().unwrap()]).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.starts_with("ed25519:"), "{done:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    user.run_bare(&["keygen", file.to_str().unwrap()]).await.failed(2, &["exists already"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_saved_url_by_name() {
    let (server, user) = (Server::start().await, User::new());
    user.run_bare(&["save", "doubler", &server.url()]).await.printed("");
    let again = user.run_bare(&["save", "doubler", &server.url()]).await;
    again.printed("unchanged: doubler has this URL already\n");
    user.run(&["call", "@doubler", r#"{"Double":3}"#]).await.printed("\"6\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_server_is_known_afterwards() {
    let (server, user) = (Server::start().await, User::new());
    let url = format!("chan://localhost:{}/s?tofu", server.port);
    user.run(&["ping", &url]).await.failed(4, &[&server.pin.to_string(), "--accept-new"]);
    assert_eq!(user.run(&["ping", &url, "--accept-new"]).await.code, 0);
    assert_eq!(user.run(&["ping", &url]).await.code, 0);
    let other = Server::start().await;
    let known = user.home.path().join("chan-client/known_hosts");
    let text = std::fs::read_to_string(&known).unwrap();
    std::fs::write(&known, text.replace(&server.pin.to_string(), &other.pin.to_string())).unwrap();
    let changed = user.run(&["ping", &url, "--accept-new"]).await;
    changed.failed(4, &[&server.pin.to_string(), &other.pin.to_string(), known.to_str().unwrap()]);
}

/// `setsid` detaches the program from the terminal, on which it would ask for the password.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn asks_no_password_without_terminal() {
    let user = User::new();
    let mut command = Command::new("setsid");
    command.args(["--wait", env!("CARGO_BIN_EXE_chan-client"), "ping", "chan://localhost:1/s?tofu"]);
    command.env("XDG_CONFIG_HOME", user.home.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = Done::of(command.spawn().unwrap(), "").await;
    done.failed(2, &["no terminal", "--password-file or --key-file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn makes_completions_and_manual_pages() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = user.run_bare(&["completions", shell]).await;
        assert!(done.code == 0 && done.out.contains("password-file"), "{shell}: {done:?}");
    }
    let directory = user.home.path().to_str().unwrap();
    user.run_bare(&["man", directory]).await.printed("");
    let page = std::fs::read_to_string(user.home.path().join("chan-client.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
}
