//! The commands while the network fails: what they say, what they carry, and their exit codes.

use std::{
    io::Write,
    process::Command,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
};

use chan_server::modules::Modules;
use chan_tests::{Embedded, Folder, NAMES_AND_ECHO, PATIENCE, Proxy, Running, Server, nobody, run};
use lib_chan::{Channel, Process};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A server that pushes the numbers that the test sends, and tells when the client has acknowledged each.
fn pushing() -> (Embedded, UnboundedSender<u32>, Receiver<()>) {
    let (push, pushed) = unbounded_channel();
    let (tell, told) = channel();
    let pushed = Arc::new(Mutex::new(Some(pushed)));
    let modules =
        Modules::new().function("test", "pushes", move |_me: Process, chan: Channel<u32>, (): (), (): ()| {
            let (pushed, tell) = (pushed.lock().unwrap().take(), tell.clone());
            async move {
                let Some(mut pushed) = pushed else { return Ok(()) };
                while let Some(number) = pushed.recv().await {
                    chan.remote().cast(number).await?;
                    chan.remote().flush().await?;
                    let _ = tell.send(());
                }
                Ok(())
            }
        });
    (Embedded::start(modules, &["pushes"], ""), push, told)
}

/// A program with a session by way of a proxy, which is cut, and leads nowhere.
fn cut_off(server: &Server, command: &str, more: &[&str]) -> (Proxy, Running) {
    let proxy = Proxy::before(server.url("echo"));
    let password = server.folder.path().join("password");
    let mut client = server.client_at(command, &proxy.url(server.url("echo")), &password);
    let client = Running::start({
        client.arg("-v").args(more);
        client
    });
    client.err.wait("the session", |line| line.contains("the session is open"));
    proxy.redirect(&nobody());
    proxy.cut();
    client.err.wait("the outage", |line| line == RECONNECTING);
    (proxy, client)
}

const RECONNECTING: &str = "chan-client: reconnecting…";
const RECONNECTED: &str = "chan-client: reconnected";

#[test]
fn receive_speaks_once_of_each_outage() {
    let (server, push, told) = pushing();
    let proxy = Proxy::before(&server.url("pushes"));
    let client = Running::start(server.client_at("receive", &proxy.url(&server.url("pushes"))));
    for number in 0..3 {
        push.send(number).unwrap();
        client.out.wait("the number", |line| line == number.to_string());
        // Before its first ack the server does not know that the client can come back.
        told.recv_timeout(PATIENCE).unwrap();
        proxy.redirect(&nobody());
        proxy.cut();
        let outages = |wanted: &'static str| {
            move |lines: &[String]| lines.iter().filter(|line| *line == wanted).count() == number as usize + 1
        };
        client.err.wait_for("outage", outages(RECONNECTING));
        // Sent while there is no connection.
        push.send(100 + number).unwrap();
        proxy.redirect(&server.url("pushes"));
        client.err.wait_for("end of the outage", outages(RECONNECTED));
        client.out.wait("the number", |line| line == (100 + number).to_string());
        told.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!(client.out.all(), ["0", "100", "1", "101", "2", "102"]);
    assert_eq!(client.err.all(), [RECONNECTING, RECONNECTED].repeat(3));
    client.signal("INT");
    assert_eq!(client.code(), Some(0));
}

#[test]
fn silent_network_is_given_up_and_dialled_again() {
    let server = Server::start(&format!("{NAMES_AND_ECHO}\n[limits]\nheartbeat_interval = '1 s'"));
    let proxy = Proxy::before(server.url("echo"));
    let password = server.folder.path().join("password");
    let mut client = Running::start(server.client_at("repl", &proxy.url(server.url("echo")), &password));
    let mut ask = |text: &str| client.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    ask("1\n");
    client.out.wait("the answer", |line| line == "1");
    proxy.swallow();
    ask("2\n");
    proxy.recover();
    client.out.wait("the answer", |line| line == "2");
    assert_eq!(client.err.all(), [RECONNECTING, RECONNECTED]);
    assert_eq!(client.code(), Some(0));
}

#[test]
fn script_survives_cuts_whole_and_in_order() {
    let server = Server::start(NAMES_AND_ECHO);
    let proxy = Proxy::before(server.url("echo"));
    let password = server.folder.path().join("password");
    let mut client = Running::start(server.client_at("repl", &proxy.url(server.url("echo")), &password));
    let mut stdin = client.stdin.take().unwrap();
    let mut expected = Vec::new();
    for number in 0..200_u32 {
        let line = number.to_string();
        writeln!(stdin, "{line}").unwrap();
        if number == 0 {
            // A login that is cut would end the program.
            client.out.wait("the session", |answer| answer == line);
        }
        if number % 20 == 19 {
            proxy.cut();
            client.out.wait("the answer", |answer| answer == line);
        }
        expected.push(line);
    }
    drop(stdin);
    let (out, err) = (client.out.clone(), client.err.clone());
    assert_eq!(client.code(), Some(0), "{:?}", err.all());
    out.wait_for("answers", |lines| lines == expected);
}

#[test]
fn signal_while_detached_ends_at_once() {
    let server = Server::start(NAMES_AND_ECHO);
    // Longer than the test waits.
    let long = ["--resume", "1h"];
    for (command, code) in [("receive", 0), ("repl", 130), ("pipe", 130)] {
        let carried = (command == "pipe").then(carried);
        let (_proxy, mut client) = cut_off(carried.as_ref().unwrap_or(&server), command, &long);
        client.signal("INT");
        let (err, input) = (client.err.clone(), client.stdin.take());
        assert_eq!(client.code(), Some(code), "{command}: {:?}", err.all());
        drop(input);
    }
}

/// A server whose service `echo` carries bytes to a target that says nothing.
fn carried() -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    Server::start(&format!(
        "[[service]]\nname = 'echo'\npassword_file = 'password'\nmfa = ['tcp', 'connect', '127.0.0.1:{port}']"
    ))
}

#[test]
fn outage_beyond_window_exits_9() {
    let server = Server::start(NAMES_AND_ECHO);
    let (_proxy, client) = cut_off(&server, "receive", &["--resume", "1s"]);
    client.err.wait("the end", |line| line.contains("the connection was lost"));
    assert_eq!(client.code(), Some(9));
}

#[test]
fn other_server_on_reconnecting_exits_4() {
    let (server, other) = (Server::start(NAMES_AND_ECHO), Server::start(NAMES_AND_ECHO));
    for command in ["receive", "repl"] {
        let (proxy, client) = cut_off(&server, command, &[]);
        proxy.redirect(other.url("echo"));
        let line = client.err.wait("the end", |line| line.contains("reconnecting failed"));
        assert!(line.contains("which the URL does not pin"), "{line}");
        assert_eq!(client.code(), Some(4));
    }
}

#[test]
fn refused_reconnect_has_code_of_refused_login() {
    for command in ["receive", "repl"] {
        let mut server = Server::start(NAMES_AND_ECHO);
        let (proxy, client) = cut_off(&server, command, &[]);
        server.signal("KILL");
        server.wait();
        // The same server with another password.
        let folder = Folder::new();
        copy(&server.folder.path().join("state"), &folder.path().join("state"));
        folder.write("other", "another password, long enough");
        let services = NAMES_AND_ECHO.replace("\"password\"", "\"other\"");
        let server = Server::start_in(folder, &services);
        proxy.redirect(server.url("echo"));
        let line = client.err.wait("the end", |line| line.contains("reconnecting failed"));
        assert!(line.contains("refused; check the password"), "{line}");
        assert_eq!(client.code(), Some(5));
    }
}

#[test]
fn restarted_server_ends_session_with_9() {
    let mut server = Server::start(NAMES_AND_ECHO);
    let (proxy, mut client) = cut_off(&server, "repl", &[]);
    client.stdin.as_mut().unwrap().write_all(b"1\n").unwrap();
    server.signal("KILL");
    server.wait();
    let folder = Folder::new();
    copy(&server.folder.path().join("state"), &folder.path().join("state"));
    let server = Server::start_in(folder, NAMES_AND_ECHO);
    proxy.redirect(server.url("echo"));
    // Nothing of the call was written.
    client.out.wait("the truth", |line| line.contains("(not executed"));
    client.err.wait("the end", |line| line.contains("the connection was lost; connect again"));
    assert_eq!(client.code(), Some(9));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = run(Command::new("cp").arg("-a").args([from, to]));
    assert_eq!(copied.0, Some(0), "{}", copied.2);
}
