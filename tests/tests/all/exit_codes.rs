//! The truth about calls, as a shell script sees it: one exit code for each kind of failure, and words that say whether
//! it was executed.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chan_server::modules::Modules;
use chan_tests::{Embedded, PATIENCE, Proxy, Running, Server, port_of, run};
use lib_chan::{Call, Channel, ExitReason, Message, Opaque, Process};
use serde::{Deserialize, Serialize};

const NAME_SERVER: &str = r#"
[[service]]
name = "name_server"
password_file = "password"
mfa = ["name_server", "start_me_up"]
"#;

const LOOKUP: &str = r#"{"Lookup":{"key":"joe"}}"#;

/// What a service is asked for that fails in every way there is.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Fail,
    Panic,
    Drop,
    Hang,
    Long(usize),
    Garbage,
}

impl Call for Ask {
    type Reply = String;
}

async fn answers(mut chan: Channel<Ask, ()>) -> Result<(), ExitReason> {
    let mut kept = Vec::new();
    while let Some(message) = chan.recv().await {
        let Message::Call(ask, reply) = message else { continue };
        let reply = reply.to(&ask);
        match ask {
            Ask::Fail => return Err(ExitReason::failed("out of order")),
            Ask::Panic => panic!("as told"),
            Ask::Drop => drop(reply),
            Ask::Hang => kept.push(reply),
            Ask::Long(len) => reply.send("x".repeat(len)),
            Ask::Garbage => reply.refuse("only the other service does that"),
        }
    }
    Ok(())
}

fn embedded(limits: &str) -> Embedded {
    let modules = Modules::new()
        .function("test", "answers", |_me: Process, chan, (): (), (): ()| answers(chan))
        .function("test", "garbage", |_me: Process, mut chan: Channel<Opaque>, (): (), (): ()| async move {
            while let Some(message) = chan.recv().await {
                if let Message::Call(request, reply) = message {
                    reply.to(&request).send(Opaque(Bytes::from_static(b"\xffno JSON")));
                }
            }
            Ok(())
        })
        .function("test", "ends", |_me: Process, chan: Channel<Opaque>, (): (), (): ()| async move {
            drop(chan);
            Err(ExitReason::failed("closed on Mondays"))
        });
    Embedded::start(modules, &["answers", "garbage", "ends"], limits)
}

/// Calls, and checks exit code and words; a call that fails prints nothing.
#[track_caller]
fn fails(server: &Embedded, service: &str, message: &str, more: &[&str], code: i32, words: &[&str]) {
    let (found, out, complaint) = run(server.client("call", service).arg(message).args(more));
    assert_eq!((found, out.as_str()), (Some(code), ""), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    for word in words {
        assert!(complaint.contains(word), "no {word} in {complaint}");
    }
}

#[test]
fn usage_is_2_and_nothing_was_sent() {
    let server = embedded("");
    fails(&server, "answers", "{Long: 1}", &[], 2, &["not JSON", "nothing was sent"]);
    let unusable = [
        ("http://h:1/s?tofu", "URL"),
        ("chan://h:1/s", "pin"),
        ("chan://h:1/s?ca=/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("@nowhere", "nowhere"),
    ];
    for (url, word) in unusable {
        let (code, _, complaint) = run(&mut server.client_at("ping", url));
        assert_eq!(code, Some(2), "{url}: {complaint}");
        assert!(complaint.contains(word), "{url}: {complaint}");
    }
    let shared = server.folder.write("shared", "a password for everybody");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&shared, mode).unwrap();
    let mut client = std::process::Command::new(chan_tests::program("chan-client"));
    let (code, _, complaint) =
        run(client.args(["ping", &server.url("answers"), "--password-file"]).arg(&shared));
    assert_eq!(code, Some(2));
    assert!(complaint.contains("chmod 600"), "{complaint}");
}

#[test]
fn unreachable_server_exits_3() {
    let server = embedded("");
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = |port: u16| {
        let url = server.url("answers");
        url.replacen(&format!(":{}/", port_of(&url)), &format!(":{port}/"), 1)
    };
    let (code, _, complaint) = run(server.client_at("call", &url(unused)).arg("\"Drop\""));
    assert_eq!(code, Some(3), "{complaint}");
    assert!(complaint.contains("refused") && complaint.contains("not executed"), "{complaint}");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let greeter = thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 mail.example.net ESMTP\r\n").unwrap();
        // Until the client has seen it.
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    });
    let (code, _, complaint) = run(server.client_at("call", &url(port)).arg("\"Drop\""));
    assert_eq!(code, Some(3), "{complaint}");
    assert!(complaint.contains("does not speak TLS") && complaint.contains("not executed"), "{complaint}");
    greeter.join().unwrap();
}

#[test]
fn another_server_than_the_expected_one_is_4() {
    let (server, other) = (embedded(""), embedded(""));
    let url = server.url("answers");
    let url =
        url.replacen(&format!(":{}/", port_of(&url)), &format!(":{}/", port_of(&other.url("answers"))), 1);
    let (code, _, complaint) = run(server.client_at("call", &url).arg("\"Drop\""));
    assert_eq!(code, Some(4), "{complaint}");
    for word in ["which the URL does not pin", "ask the operator", "not executed"] {
        assert!(complaint.contains(word), "{complaint}");
    }
}

#[test]
fn a_refused_login_is_5() {
    let server = Server::start(NAME_SERVER);
    let wrong = server.folder.write("wrong", "a wrong password, long enough");
    let (code, _, complaint) = run(server.client_at("call", server.url("name_server"), &wrong).arg(LOOKUP));
    assert_eq!(code, Some(5));
    assert!(complaint.contains("refused") && complaint.contains("not executed"), "{complaint}");
}

#[test]
fn wrong_codec_exits_6() {
    let server = Server::start(
        "[[service]]\nname = 'bytes'\npassword_file = 'password'\nmfa = ['tcp', 'connect', '127.0.0.1:9']",
    );
    let (code, _, complaint) = run(server.client("call", "bytes").arg(LOOKUP));
    assert_eq!(code, Some(6), "{complaint}");
    assert!(
        complaint.contains("raw or bincode, not json") && complaint.contains("not executed"),
        "{complaint}"
    );
    assert!(
        complaint.contains("chan-client pipe") && complaint.contains("chan-client forward"),
        "{complaint}"
    );
}

#[test]
fn refused_or_unusable_call_exits_6() {
    let server = Server::start(&format!("{NAME_SERVER}\n[limits]\nmax_frame_len = '1 KiB'"));
    let long = format!(r#"{{"Lookup":{{"key":"{}"}}}}"#, "k".repeat(2000));
    let cases = [
        (r#"{"Store":{"key":"joe","value":"x"}}"#, "`store` is a cast"),
        (r#"{"Forget":{"key":"joe"}}"#, "Forget"),
        (&long, "longer than"),
    ];
    for (message, words) in cases {
        let (code, _, complaint) = run(server.client("call", "name_server").arg(message));
        assert_eq!(code, Some(6), "{complaint}");
        assert!(complaint.contains(words) && complaint.contains("not executed"), "{complaint}");
    }
}

#[test]
fn one_session_too_many_exits_6() {
    let server = Server::start(&format!("{NAME_SERVER}\n[limits]\nmax_sessions_per_client = 1"));
    let first = Running::start(server.client("receive", "name_server"));
    server.event("session_started");
    let (code, _, complaint) = run(server.client("call", "name_server").arg(LOOKUP));
    assert_eq!(code, Some(6), "{complaint}");
    assert!(complaint.contains("too many sessions") && complaint.contains("not executed"), "{complaint}");
    first.signal("INT");
    assert_eq!(first.code(), Some(0));
}

#[test]
fn ended_or_silent_service_exits_7() {
    let server = embedded("");
    fails(&server, "answers", "\"Fail\"", &[], 7, &["out of order", "perhaps executed"]);
    fails(&server, "answers", "\"Panic\"", &[], 7, &["panic", "perhaps executed"]);
    fails(&server, "answers", "\"Drop\"", &[], 7, &["no answer", "perhaps executed"]);
    fails(&server, "ends", "\"Drop\"", &[], 7, &["closed on Mondays", "not executed"]);
}

#[test]
fn undecodable_cast_exits_7() {
    let names = NAME_SERVER.replace("\"start_me_up\"", "\"start_me_up\", \"1 KiB\"");
    let server = Server::start(&names);
    let cast = |message: &str| run(server.client("cast", "name_server").arg(message));
    // Each is a race that the end of the session must not win.
    for _ in 0..10 {
        let (code, out, complaint) = cast(r#"{"Forget":{"key":"joe"}}"#);
        assert_eq!((code, out.as_str()), (Some(7), ""), "{complaint}");
        assert!(complaint.contains("a cast cannot be decoded: "), "{complaint}");
    }
    let (code, _, complaint) =
        cast(&format!(r#"{{"Store":{{"key":"joe","value":"{}"}}}}"#, "x".repeat(2000)));
    assert_eq!(code, Some(7), "{complaint}");
    assert!(complaint.contains("all together may have 1024 bytes"), "{complaint}");
    assert_eq!(cast(r#"{"Store":{"key":"joe","value":"x"}}"#), (Some(0), String::new(), String::new()));

    let mut repl = Running::start(server.client("repl", "name_server"));
    repl.stdin.take().unwrap().write_all(b"! {\"Forget\":{\"key\":\"joe\"}}\n").unwrap();
    repl.err.wait("what was wrong", |line| line.contains("a cast cannot be decoded: "));
    assert_eq!(repl.code(), Some(7));
}

#[test]
fn cast_not_taken_in_time_exits_8() {
    let modules = Modules::new().function(
        "test",
        "deaf",
        |me: Process, chan: Channel<Opaque>, (): (), (): ()| async move {
            let mut me = me;
            me.recv().await;
            drop(chan);
            Ok(())
        },
    );
    let server = Embedded::start(modules, &["deaf"], "");
    let (code, _, complaint) = run(server.client("cast", "deaf").args(["1", "--timeout", "1s"]));
    assert_eq!(code, Some(8), "{complaint}");
    assert!(complaint.contains("did not take") && complaint.contains("perhaps executed"), "{complaint}");
}

#[test]
fn passed_deadline_exits_8_unknown() {
    let server = embedded("");
    fails(&server, "answers", "\"Hang\"", &["--timeout", "1s"], 8, &["in time", "perhaps executed"]);
}

#[test]
fn a_timeout_bounds_the_close_too() {
    let server = embedded("");
    let proxy = Proxy::before(&server.url("answers"));
    let mut client = server.client_at("call", &proxy.url(&server.url("answers")));
    // Long enough for a login on a busy machine.
    let time = Duration::from_secs(6);
    client.args(["\"Hang\"", "-v", "--timeout", "6s"]);
    let began = Instant::now();
    let client = Running::start(client);
    client.err.wait("the session", |line| line.contains("the session is open"));
    proxy.swallow();
    assert_eq!(client.code(), Some(8));
    // A close that nobody answers takes 10 s more.
    assert!(began.elapsed() < time + Duration::from_secs(8), "{:?}", began.elapsed());
}

/// A conversation from a pipe: exit code, output and complaints.
fn script(server: &Server, service: &str, lines: &[u8]) -> (Option<i32>, String, String) {
    let file = server.folder.path().join("script");
    fs::write(&file, lines).unwrap();
    run(server.client("repl", service).stdin(fs::File::open(file).unwrap()))
}

#[test]
fn failed_script_line_sets_exit_code() {
    let server = Server::start(ECHO);
    let (code, out, complaint) = script(&server, "echo", b"1\n\"\xff\"\n{bad\n2\nquit\n3\n");
    assert_eq!(code, Some(2), "{complaint}");
    let lines: Vec<_> = out.lines().collect();
    assert!(
        matches!(lines[..], ["1", utf8, json, "2"] if utf8.starts_with("- line 2: the line is not UTF-8")
        && json.starts_with("- line 3: the message is not JSON")),
        "{out}"
    );
    assert!(complaint.contains("2 of 5 lines failed, the first is line 2"), "{complaint}");
    assert_eq!(script(&server, "echo", b"1\nexit\n"), (Some(0), "1\n".into(), String::new()));
}

#[test]
fn script_shows_late_messages() {
    let server = Server::start(ECHO);
    let casts: String = (0..50).map(|number| format!("! {number}\n")).collect();
    let shown: String = (0..50).map(|number| format!("{number}\n")).collect();
    assert_eq!(script(&server, "echo", casts.as_bytes()), (Some(0), shown, String::new()));
}

#[test]
fn a_message_comes_from_standard_input() {
    let server = Server::start(ECHO);
    let file = server.folder.write("message", "{ \"a\": [1] }\n");
    let mut call = server.client("call", "echo");
    let found = run(call.arg("-").stdin(fs::File::open(file).unwrap()));
    assert_eq!(found, (Some(0), "{\"a\":[1]}\n".into(), String::new()));
    // A number below zero is no option.
    let found = run(server.client("call", "echo").arg("-5"));
    assert_eq!(found, (Some(0), "-5\n".into(), String::new()));
}

const ECHO: &str = "[[service]]\nname = 'echo'\npassword_file = 'password'\nmfa = ['echo', 'start']";

#[test]
fn pubkey_prints_public_key() {
    let folder = chan_tests::Folder::new();
    let key = folder.path().join("key");
    let client = |command: &str| {
        let mut client = std::process::Command::new(chan_tests::program("chan-client"));
        client.arg(command).arg(&key);
        client
    };
    let (code, public, _) = run(&mut client("keygen"));
    assert_eq!(code, Some(0));
    assert_eq!(run(&mut client("pubkey")), (Some(0), public, String::new()));
    // One that is there already is 2, in both programs.
    assert_eq!(run(&mut client("keygen")).0, Some(2));
    let mut passwd = std::process::Command::new(chan_tests::program("chan-server"));
    passwd.args(["passwd", "s", "--generate", "--password-file"]).arg(&key).arg("--state").arg(folder.path());
    assert_eq!(run(&mut passwd).0, Some(2));
}

#[test]
fn a_missing_home_is_2_in_both_programs() {
    for (name, arguments) in [("chan-client", &["list"][..]), ("chan-server", &["identity"])] {
        let mut program = std::process::Command::new(chan_tests::program(name));
        let (code, _, complaint) = run(program.args(arguments).env_clear());
        assert_eq!(code, Some(2), "{complaint}");
        assert!(complaint.contains("HOME"), "{complaint}");
    }
}

#[test]
fn lost_connection_exits_9_unknown() {
    let (tell, told) = std::sync::mpsc::channel();
    let modules = Modules::new().function(
        "test",
        "keeps",
        move |_me: Process, mut chan: Channel<Opaque>, (): (), (): ()| {
            let tell = tell.clone();
            async move {
                let _kept = chan.recv().await;
                let _ = tell.send(());
                while chan.recv().await.is_some() {}
                Ok(())
            }
        },
    );
    let server = Embedded::start(modules, &["keeps"], "");
    let proxy = Proxy::before(&server.url("keeps"));
    let mut client = server.client_at("call", &proxy.url(&server.url("keeps")));
    client.arg("1");
    let client = Running::start(client);
    told.recv_timeout(PATIENCE).unwrap();
    proxy.cut();
    client.err.wait("lost and unknown", |line| line.contains("lost") && line.contains("perhaps executed"));
    assert_eq!(client.code(), Some(9));
}

#[test]
fn unusable_answer_exits_10_executed() {
    let server = embedded("");
    fails(&server, "answers", r#"{"Long":2000000}"#, &[], 10, &["longer than", "(executed"]);
    fails(&server, "garbage", "1", &[], 10, &["not UTF-8", "(executed"]);
}

#[test]
fn unprintable_answer_exits_1_executed() {
    let server = embedded("");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut client = server.client("call", "answers");
    let output = client.arg(r#"{"Long":1}"#).stdout(full).stderr(Stdio::piped()).output();
    // `output` leaves what was set as it is.
    let output = output.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("executed: do not send it again"), "{complaint}");
}

#[test]
fn success_exits_0_and_prints_answer() {
    let server = embedded("");
    let found = run(server.client("call", "answers").arg(r#"{"Long":3}"#));
    assert_eq!(found, (Some(0), "\"xxx\"\n".into(), String::new()));
}
