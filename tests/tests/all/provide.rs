//! `chan-client provide`: a service of a machine that dials out, for the clients of a server.
//!
//! Longer than other files, because every scene has the same server, providers and consumers.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    path::PathBuf,
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use bytes::Bytes;
use chan_client::connect;
use chan_tests::{Folder, PASSWORD, PATIENCE, Proxy, Running, Server, program, run};
use lib_chan::{
    Address, CallFailure, Channel, Event, ExitReason, Process, Rights, enter,
    relay::{
        MAX_PIECE_LEN, Pieces, PiecesMessage, Providers, ProvidersMessage, STREAMS, Streams, StreamsMessage,
    },
    secret::Password,
    spawn,
};

use super::relay::{ask, flooding, forward_by, listen, local, stalled};

/// The password of the providers.
const PROVIDERS: &str = "staple battery horse correct";

const NOBODY: &str = "nobody provides office at the moment";

/// A server with the services `s`, for consumers, and `p`, for providers of the same name; with these lines more.
fn server(more: &str) -> Server {
    let folder = Folder::new();
    folder.write("providers", &format!("{PROVIDERS}\n"));
    Server::start_in(folder, &services("office", more))
}

fn services(name: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['provided', 'by', '{name}']\n\
         [[service]]\nname = 'p'\npassword_file = 'providers'\nmfa = ['provided', 'for', '{name}']\n{more}"
    )
}

/// `chan-client provide` by way of this URL.
fn provide_by(server: &Server, url: &str, options: &[&str]) -> Running {
    let mut client = Command::new(program("chan-client"));
    client.args(["provide", url]).args(options).arg("--password-file");
    client.arg(server.folder.path().join("providers")).env("HOME", server.folder.path());
    Running::start(client)
}

/// A provider of this port that the server has taken.
fn provide(server: &Server, port: u16, options: &[&str]) -> Running {
    let target = format!("127.0.0.1:{port}");
    let provider = provide_by(server, server.url("p"), &[&["--tcp", &target], options].concat());
    provider.out.wait("providing", |line| line == format!("providing {target}"));
    provider
}

/// A target that returns what it gets, behind a name.
fn echo(name: &'static [u8]) -> u16 {
    listen(move |mut stream| {
        thread::spawn(move || {
            let mut back = stream.try_clone().unwrap();
            back.write_all(name).unwrap();
            let _ = std::io::copy(&mut stream, &mut back);
            let _ = back.shutdown(Shutdown::Write);
        });
    })
}

/// The one byte that a target says first.
fn name(local: &mut TcpStream) -> u8 {
    let mut name = [0];
    local.read_exact(&mut name).unwrap();
    name[0]
}

fn read_error(local: &mut TcpStream) -> ErrorKind {
    local.read_to_end(&mut Vec::new()).unwrap_err().kind()
}

fn events(server: &Server, event: &str) -> usize {
    let wanted = format!("\"event\":\"{event}\"");
    server.log.all().iter().filter(|line| line.contains(&wanted)).count()
}

fn wait_events(server: &Server, event: &str, count: usize) {
    let wanted = format!("\"event\":\"{event}\"");
    let counted = |lines: &[String]| lines.iter().filter(|line| line.contains(&wanted)).count() >= count;
    server.log.wait_for(event, counted);
}

#[test]
fn carries_streams_and_sessions() {
    let server = server("");
    let _provider = provide(&server, echo(b""), &[]);
    let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    for options in [&[][..], &["--isolate"]] {
        let (forward, port) = forward_by(&server, server.url("s"), options);
        let mut local = local(&port);
        let mut sending = local.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                sending.write_all(&text).unwrap();
                sending.shutdown(Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            local.read_to_end(&mut back).unwrap();
            assert!(back == text, "{} bytes came back", back.len());
        });
        assert_eq!(forward.err.all(), Vec::<String>::new());
    }
    let folder = Folder::new();
    let mut pipe = server.client("pipe", "s");
    let output = pipe.stdin(fs::File::open(folder.write("input", "hello")).unwrap()).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello"[..]), "{output:?}");
    let found = server.event("provider_found");
    assert_eq!(found["provider"], server.event("provider_arrived")["connection"]);
}

#[test]
fn provides_unix_socket() {
    let server = server("");
    let path = server.folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
        }
    });
    let provider = provide_by(&server, server.url("p"), &["--unix", path.to_str().unwrap()]);
    provider.out.wait("providing", |line| line == format!("providing {}", path.display()));
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut local = local(&port);
    local.write_all(b"hello").unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    local.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"hello");
}

#[test]
fn refuses_consumers_without_provider() {
    let server = server("");
    let (code, out, complaint) = run(&mut server.client("pipe", "s"));
    let wanted = format!("chan-client: refused: {NOBODY}; ask the server's operator (not executed)\n");
    assert_eq!((code, &*out, complaint), (Some(6), "", wanted));
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    assert_eq!(read_error(&mut local(&port)), ErrorKind::ConnectionReset);
    let line = forward.err.wait("the refusal", |line| line.contains(NOBODY));
    assert_eq!(line, format!("chan-client: refused: {NOBODY}; ask the server's operator"));
    assert_eq!(server.event("session_refused")["why"], NOBODY);
    // The session of the consumer finds a provider that comes later.
    let _provider = provide(&server, echo(b""), &[]);
    ask(&mut local(&port), b"hello");
}

#[test]
fn killed_provider_ends_its_streams_only() {
    let server = server("");
    let first = provide(&server, echo(b"1"), &["--resume", "0"]);
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let (isolated, isolated_port) = forward_by(&server, server.url("s"), &["--isolate"]);
    let mut lost = [local(&port), local(&isolated_port)];
    assert_eq!([name(&mut lost[0]), name(&mut lost[1])], [b'1', b'1']);
    let _second = provide(&server, echo(b"2"), &[]);
    let mut kept = local(&port);
    assert_eq!(name(&mut kept), b'2');
    first.signal("KILL");
    for local in &mut lost {
        assert_eq!(read_error(local), ErrorKind::ConnectionReset);
    }
    assert_eq!(server.event("stream_ended")["reason"], "noconnection");
    let line = forward.err.wait("the reason", |line| line.contains("provider"));
    assert_eq!(line, "chan-client: the provider of the service was lost, and a connection was reset");
    isolated.err.wait("the reason", |line| line == "chan-client: the connection was lost; connect again");
    assert_eq!(server.event("provider_left")["streams"], 2);
    ask(&mut kept, b"goes on");
    for port in [&port, &isolated_port] {
        assert_eq!(name(&mut local(port)), b'2');
    }
}

#[test]
fn least_busy_provider_comes_first() {
    let server = server("");
    let _first = provide(&server, echo(b"1"), &[]);
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut busy: Vec<_> = (0..3).map(|_| local(&port)).collect();
    busy.iter_mut().for_each(|local| assert_eq!(name(local), b'1'));
    let _second = provide(&server, echo(b"2"), &[]);
    let mut more: Vec<_> = (0..3).map(|_| local(&port)).collect();
    more.iter_mut().for_each(|local| assert_eq!(name(local), b'2'));
    // Equally busy: one of each.
    let mut last: Vec<_> = (0..2).map(|_| local(&port)).collect();
    let mut names: Vec<_> = last.iter_mut().map(name).collect();
    names.sort_unstable();
    assert_eq!(names, b"12");
    // The first becomes the least busy one.
    drop(busy);
    wait_events(&server, "stream_ended", 3);
    assert_eq!(name(&mut local(&port)), b'1');
}

#[test]
fn detached_provider_comes_last() {
    let server = server("");
    let first = provide(&server, echo(b"1"), &["--resume", "1m"]);
    let _second = provide(&server, echo(b"2"), &[]);
    first.signal("KILL");
    server.event("session_detached");
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut locals: Vec<_> = (0..3).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| assert_eq!(name(local), b'2'));
}

#[test]
fn provider_resumes_and_consumer_notices_nothing() {
    let server = server("");
    let proxy = Proxy::before(server.url("p"));
    let target = format!("127.0.0.1:{}", echo(b""));
    let provider = provide_by(&server, &proxy.url(server.url("p")), &["--tcp", &target, "--resume", "1m"]);
    provider.out.wait("providing", |line| line.starts_with("providing"));
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut open = local(&port);
    for round in 1..=3 {
        ask(&mut open, b"before");
        proxy.cut();
        ask(&mut open, b"after");
        wait_events(&server, "session_resumed", round);
    }
    provider.err.wait("the news", |line| line == "chan-client: reconnecting…");
    provider.err.wait("the news", |line| line == "chan-client: reconnected");
    assert_eq!((forward.err.all(), events(&server, "provider_arrived")), (vec![], 1));
}

#[test]
fn provider_logs_in_again_at_next_server() {
    let mut server = server("");
    let proxy = Proxy::before(server.url("p"));
    let target = format!("127.0.0.1:{}", echo(b""));
    let url = proxy.url(server.url("p"));
    let provider = provide_by(&server, &url, &["--tcp", &target, "--resume", "0"]);
    provider.out.wait("providing", |line| line.starts_with("providing"));
    server.signal("KILL");
    server.wait();
    let lost = "the connection was lost, and open connections were reset; logging in again";
    provider.err.wait("the end", |line| line == format!("chan-client: {lost}"));
    provider.err.wait("a failed login", |line| line.ends_with("; trying again until it works"));
    // The same state, so that its key is the one in the URL.
    let folder = Folder::new();
    folder.write("providers", &format!("{PROVIDERS}\n"));
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(server.folder.path().join("state")).arg(folder.path());
    assert!(copy.status().unwrap().success());
    let next = Server::start_in(folder, &services("office", ""));
    proxy.redirect(next.url("p"));
    provider.err.wait("the news", |line| line == format!("chan-client: providing {target} again"));
    let (_forward, port) = forward_by(&next, next.url("s"), &[]);
    ask(&mut local(&port), b"hello");
}

#[test]
fn wrong_password_of_provider_ends_it() {
    let server = server("");
    let mut client = server.client_at("provide", server.url("p"), &server.folder.path().join("password"));
    let (code, out, complaint) = run(client.args(["--tcp", "127.0.0.1:1"]));
    assert_eq!((code, &*out), (Some(5), ""), "{complaint}");
    assert_eq!(events(&server, "provider_arrived"), 0);
    // A consumer is no provider either.
    let mut client = server.client_at("provide", server.url("s"), &server.folder.path().join("password"));
    let (code, out, complaint) = run(client.args(["--tcp", "127.0.0.1:1"]));
    assert_eq!((code, &*out), (Some(6), ""), "{complaint}");
}

#[test]
fn interrupted_provider_ends_in_order() {
    let server = server("");
    let provider = provide(&server, echo(b""), &[]);
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut open = local(&port);
    ask(&mut open, b"hello");
    provider.signal("INT");
    assert_eq!(read_error(&mut open), ErrorKind::ConnectionReset);
    assert_eq!(provider.err.all(), Vec::<String>::new());
    assert_eq!(provider.code(), Some(0));
    assert_eq!(server.event("stream_ended")["reason"], "noconnection");
    assert_eq!(server.event("session_ended")["reason"], "normal");
    assert_eq!(server.event("provider_left")["provides"], "office");
}

#[test]
fn draining_server_waits_for_streams_of_provider() {
    let mut server = server("");
    let provider = provide(&server, echo(b""), &[]);
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut busy = local(&port);
    ask(&mut busy, b"hello");
    server.signal("TERM");
    server.event("draining");
    ask(&mut busy, b"the stream goes on");
    busy.shutdown(Shutdown::Write).unwrap();
    assert_eq!(busy.read(&mut [0]).unwrap(), 0);
    provider.err.wait("the news", |line| line == "chan-client: the server is stopping; logging in again");
    assert!(server.wait().success());
}

#[test]
fn reload_ends_sessions_of_removed_name() {
    let server = server("");
    let _provider = provide(&server, echo(b""), &[]);
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut open = local(&port);
    ask(&mut open, b"hello");
    let config = server.folder.path().join("chan-server.toml");
    let reload = |text: &str| {
        fs::write(&config, format!("listen = [\"127.0.0.1:0\"]\n{text}")).unwrap();
        let reloads = events(&server, "reloaded");
        server.signal("HUP");
        wait_events(&server, "reloaded", reloads + 1);
    };
    reload(&services(
        "office",
        "[[service]]\nname = 'e'\npassword_file = 'password'\nmfa = ['echo', 'start']",
    ));
    ask(&mut open, b"an unchanged name goes on");
    reload(&services("home", ""));
    assert_eq!(read_error(&mut open), ErrorKind::ConnectionReset);
    server.log.wait_for("both ends", |lines| {
        let changed = |line: &&String| line.contains("the provided name is changed");
        lines.iter().filter(changed).count() == 2
    });
    // The provider logs in again, and provides the new name.
    wait_events(&server, "provider_arrived", 2);
    let line = server.log.wait("the new name", |line| line.contains("\"provides\":\"home\""));
    assert!(line.contains("provider_arrived"), "{line}");
}

/// Writes another password into a file of the server, which the other end reads as well, and reloads.
fn replace_password(server: &Server, file: &str) {
    server.folder.write(file, "battery staple correct horse\n");
    let reloads = events(server, "reloaded");
    server.signal("HUP");
    wait_events(server, "reloaded", reloads + 1);
}

#[test]
fn provider_logs_in_with_replaced_password() {
    let server = server("");
    let provider = provide(&server, echo(b""), &[]);
    replace_password(&server, "providers");
    provider.err.wait("the news", |line| line.contains("providing") && line.ends_with("again"));
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    ask(&mut local(&port), b"hello");
    assert!(!server.log.all().iter().any(|line| line.contains("\"outcome\":\"refused\"")));
}

#[test]
fn forward_logs_in_with_replaced_password() {
    let server = server("");
    let _provider = provide(&server, echo(b""), &[]);
    let (shared, shared_port) = forward_by(&server, server.url("s"), &[]);
    let (_isolated, isolated_port) = forward_by(&server, server.url("s"), &["--isolate"]);
    ask(&mut local(&shared_port), b"hello");
    replace_password(&server, "password");
    shared.err.wait("the end", |line| line.contains("revoked"));
    ask(&mut local(&shared_port), b"hello");
    // Each connection logs in, and only a refused login makes the program read the file.
    assert_eq!(read_error(&mut local(&isolated_port)), ErrorKind::ConnectionReset);
    ask(&mut local(&isolated_port), b"hello");
}

#[test]
fn url_of_consumers_is_no_place_for_provider() {
    let server = server("");
    let mut client = server.client("provide", "s");
    let (code, out, complaint) = run(client.args(["--tcp", "127.0.0.1:1"]));
    assert_eq!((code, out.as_str()), (Some(6), ""));
    let advice = "use the URL of the service whose mfa is [\"provided\", \"for\", NAME]";
    assert!(complaint.contains(advice), "{complaint}");
}

// Ends of streams, and backpressure.

/// A target that says how its stream ended.
fn watched() -> (u16, Receiver<Result<u64, ErrorKind>>) {
    let (tell, told) = channel();
    let port = listen(move |mut stream| {
        let tell = tell.clone();
        thread::spawn(move || {
            stream.write_all(b"!").unwrap();
            let ended = std::io::copy(&mut stream, &mut std::io::sink());
            tell.send(ended.map_err(|error| error.kind())).unwrap();
        });
    });
    (port, told)
}

#[test]
fn target_tells_eof_from_reset_and_loss() {
    let server = server("");
    let (port, told) = watched();
    let _provider = provide(&server, port, &[]);
    for options in [&["--resume", "0"][..], &["--resume", "0", "--isolate"]] {
        let (forward, port) = forward_by(&server, server.url("s"), options);
        let end_by = |end: &dyn Fn(TcpStream)| {
            let mut local = local(&port);
            assert_eq!(name(&mut local), b'!');
            local.write_all(b"12345").unwrap();
            end(local);
            told.recv_timeout(PATIENCE).unwrap()
        };
        assert_eq!(end_by(&|local| local.shutdown(Shutdown::Write).unwrap()), Ok(5));
        let reset = end_by(&|local| reset_on_drop(&local));
        assert_eq!(reset, Err(ErrorKind::ConnectionReset));
        assert_eq!(end_by(&|_local| forward.signal("KILL")), Err(ErrorKind::ConnectionReset));
    }
}

/// Makes the system reset a connection when it is dropped.
fn reset_on_drop(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn consumer_tells_eof_from_reset_of_target() {
    let server = server("");
    let port = listen(|mut stream| {
        thread::spawn(move || {
            let mut how = [0];
            stream.read_exact(&mut how).unwrap();
            stream.write_all(b"12345").unwrap();
            // So that the bytes are on their way before the reset destroys them.
            stream.read_exact(&mut [0]).unwrap();
            if how == *b"r" {
                reset_on_drop(&stream);
            }
        });
    });
    let _provider = provide(&server, port, &[]);
    for options in [&[][..], &["--isolate"]] {
        let (_forward, port) = forward_by(&server, server.url("s"), options);
        for (how, wanted) in [(b"e", Ok(0)), (b"r", Err(ErrorKind::ConnectionReset))] {
            let mut local = local(&port);
            local.write_all(how).unwrap();
            local.read_exact(&mut [0; 5]).unwrap();
            local.write_all(b".").unwrap();
            assert_eq!(local.read(&mut [0]).map_err(|error| error.kind()), wanted);
        }
    }
}

#[test]
fn unreachable_target_is_passed_over() {
    let server = server("");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broken = provide(&server, unused, &[]);
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    assert_eq!(read_error(&mut local(&port)), ErrorKind::ConnectionReset);
    forward
        .err
        .wait("the reason", |line| line.contains("the service ended: failed: target: connection refused"));
    broken.err.wait("the reason", |line| line.contains(&format!("cannot connect to 127.0.0.1:{unused}: ")));
    let _sound = provide(&server, echo(b""), &[]);
    for _ in 0..3 {
        let mut local = local(&port);
        ask(&mut local, b"the first piece goes to the other provider");
    }
}

#[test]
fn full_provider_is_passed_over() {
    let server = server("");
    let _first = provide(&server, echo(b"1"), &["--max-connections", "1"]);
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut held = local(&port);
    assert_eq!(name(&mut held), b'1');
    assert_eq!(read_error(&mut local(&port)), ErrorKind::ConnectionReset);
    forward.err.wait("the refusal", |line| line.contains("the providers of office have all the connections"));
    let _second = provide(&server, echo(b"2"), &[]);
    let mut locals: Vec<_> = (0..3).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| assert_eq!(name(local), b'2'));
}

#[test]
fn stalled_consumer_holds_up_its_stream_only() {
    let server = server("");
    let _provider = provide(&server, flooding(), &[]);
    for options in [&[][..], &["--isolate"]] {
        let (_forward, port) = forward_by(&server, server.url("s"), options);
        let stalled: Vec<_> = (0..3).map(|_| stalled(&port)).collect();
        let mut locals: Vec<_> = (0..10).map(|_| local(&port)).collect();
        for _ in 0..3 {
            locals.iter_mut().for_each(|local| ask(local, b"hello"));
        }
        drop(stalled);
    }
}

#[test]
fn streams_count_as_sessions_of_consumer() {
    let server = server("[limits]\nmax_sessions_per_client = 3");
    let _provider = provide(&server, echo(b""), &[]);
    let (forward, port) = forward_by(&server, server.url("s"), &[]);
    let mut locals: Vec<_> = (0..2).map(|_| local(&port)).collect();
    locals.iter_mut().for_each(|local| ask(local, b"hello"));
    assert_eq!(read_error(&mut local(&port)), ErrorKind::ConnectionReset);
    forward.err.wait("the refusal", |line| line.contains("max_sessions_per_client"));
    locals.pop().unwrap().shutdown(Shutdown::Write).unwrap();
    server.event("stream_ended");
    // The place is free right after the event.
    let answers = |_: &u32| {
        let mut local = local(&port);
        local.write_all(b"hello").is_ok() && local.read_exact(&mut [0; 5]).is_ok()
    };
    assert!((0..100).any(|attempt| answers(&attempt)));
}

// Hostile providers and consumers, which are clients of the library.

async fn provider_session(server: &Server) -> Channel<(), ProvidersMessage> {
    let connect = connect(server.url("p")).password(Password::new(PROVIDERS).unwrap());
    connect.open::<(), ProvidersMessage>().await.unwrap()
}

async fn consumer_session(server: &Server) -> Channel<(), StreamsMessage> {
    let connect = connect(server.url("s")).password(Password::new(PASSWORD).unwrap()).args(&STREAMS);
    connect.open::<(), StreamsMessage>().await.unwrap()
}

/// Opens a stream, and returns the reason of its end.
async fn open_and_wait(chan: &Channel<(), StreamsMessage>) -> ExitReason {
    let ended = enter(async |mut me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let far = chan.remote().open(Bytes::from_static(b"hello"), client).await?;
        // Either the provider waits for it, or the stream has ended.
        let _ = far.piece(Bytes::from_static(b"more")).await;
        loop {
            if let Event::Exit(_, reason) = me.recv().await {
                return Ok(reason);
            }
        }
    });
    ended.await.unwrap()
}

/// A process that does this with each request for a stream.
fn streams(mut serve: impl FnMut(StreamsMessage) + Send + 'static) -> Address<StreamsMessage> {
    spawn(async move |mut me: Process<StreamsMessage>| {
        loop {
            if let Event::Message(message) = me.recv().await {
                serve(message);
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn session_provides_once() {
    let server = server("");
    let chan = provider_session(&server).await;
    let process = streams(drop);
    let none = chan.remote().provide(process.clone(), 0).await.unwrap_err();
    assert!(matches!(none.reason, CallFailure::Refused(_)), "{none:?}");
    chan.remote().provide(process.clone(), 1).await.unwrap();
    let twice = chan.remote().provide(process, 1).await.unwrap_err();
    assert!(matches!(twice.reason, CallFailure::Refused(_)), "{twice:?}");
    wait_events(&server, "provider_arrived", 1);
    assert_eq!(events(&server, "provider_arrived"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_process_of_provider_ends_its_session() {
    let server = server("");
    let chan = provider_session(&server).await;
    let process = streams(drop);
    chan.remote().provide(process.clone(), 1).await.unwrap();
    process.pid().exit(ExitReason::failed("boom"));
    let reason = chan.remote().ended().await;
    assert_eq!(reason, ExitReason::failed("the provider's process has ended: failed: boom"));
    server.event("provider_left");
    let refused = consumer_session(&server).await;
    let ended = enter(async |me: Process<PiecesMessage>| {
        Ok(refused.remote().open(Bytes::new(), me.address()).await.unwrap_err().reason)
    });
    assert_eq!(ended.await, Ok(CallFailure::Refused(NOBODY.into())));
}

/// The server hands the provider a process of its own. That process given back would take pieces without credit.
#[tokio::test(flavor = "multi_thread")]
async fn provider_cannot_answer_with_process_of_server() {
    let server = server("");
    let chan = provider_session(&server).await;
    let process = streams(|StreamsMessage::Open { client, reply, .. }| reply.send(client));
    chan.remote().provide(process, 9).await.unwrap();
    let reason = open_and_wait(&consumer_session(&server).await).await;
    assert_eq!(reason, ExitReason::failed("target: the provider broke the protocol"));
    assert!(server.event("target_failed")["why"].as_str().unwrap().contains("a process of the server"));
}

/// Pieces of a provider that refuses must not get into the stream of the one that serves.
#[tokio::test(flavor = "multi_thread")]
async fn refusing_provider_injects_nothing() {
    let server = server("");
    let chan = provider_session(&server).await;
    let process = streams(|StreamsMessage::Open { client, reply, .. }| {
        client.try_send(PiecesMessage::Piece { bytes: Bytes::from_static(b"evil") }).unwrap();
        reply.refuse("no");
    });
    chan.remote().provide(process, 9).await.unwrap();
    tokio::task::spawn_blocking(move || {
        let _honest = provide(&server, echo(b"2"), &[]);
        let (_forward, port) = forward_by(&server, server.url("s"), &[]);
        for _ in 0..3 {
            let mut local = local(&port);
            assert_eq!(name(&mut local), b'2');
            ask(&mut local, b"hello");
        }
        wait_events(&server, "provider_found", 3);
    })
    .await
    .unwrap();
    drop(chan);
}

/// A provider that answers nothing would be the least busy one for ever.
#[tokio::test(flavor = "multi_thread")]
async fn silent_provider_is_avoided() {
    let server = server("[limits]\ndial_timeout = '2 s'");
    let chan = provider_session(&server).await;
    let mut kept = Vec::new();
    chan.remote().provide(streams(move |message| kept.push(message)), 9).await.unwrap();
    let consumer = consumer_session(&server).await;
    let reason = open_and_wait(&consumer).await;
    assert_eq!(reason, ExitReason::failed("target: the provider did not answer"));
    tokio::task::spawn_blocking(move || {
        let _honest = provide(&server, echo(b"2"), &[]);
        let (_forward, port) = forward_by(&server, server.url("s"), &[]);
        let mut locals: Vec<_> = (0..3).map(|_| local(&port)).collect();
        locals.iter_mut().for_each(|local| assert_eq!(name(local), b'2'));
    })
    .await
    .unwrap();
    drop((chan, consumer));
}

/// A reason that blames the server, or the consumer's own session, is the provider's word only.
#[tokio::test(flavor = "multi_thread")]
async fn reason_of_provider_is_marked_as_its_own() {
    let server = server("");
    let chan = provider_session(&server).await;
    let mut reasons = [ExitReason::Protocol, ExitReason::Revoked, ExitReason::Normal].into_iter().cycle();
    let process = streams(move |StreamsMessage::Open { client, reply, .. }| {
        let reason = reasons.next().unwrap();
        let stream = spawn(async move |mut me: Process<PiecesMessage>| {
            me.link(client.pid())?;
            // A piece: the server has taken this process.
            me.recv().await;
            Err::<(), _>(reason)
        });
        reply.send(stream);
    });
    chan.remote().provide(process, 9).await.unwrap();
    let consumer = consumer_session(&server).await;
    for wanted in
        ["the provider ended: protocol", "the provider ended: revoked", "the provider ended before its EOF"]
    {
        assert_eq!(open_and_wait(&consumer).await, ExitReason::failed(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_provider_ends_its_session_only() {
    let server = server("");
    let connect = connect(server.url("p")).password(Password::new(PROVIDERS).unwrap());
    let chan = connect.open::<(), Vec<u8>>().await.unwrap();
    chan.remote().cast(vec![0xff; 100]).await.unwrap();
    assert!(matches!(chan.remote().ended().await, ExitReason::Failed(_)));
    tokio::task::spawn_blocking(move || {
        let _honest = provide(&server, echo(b""), &[]);
        let (_forward, port) = forward_by(&server, server.url("s"), &[]);
        ask(&mut local(&port), b"hello");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_needs_short_first_piece() {
    let server = server("");
    let chan = consumer_session(&server).await;
    let ended = enter(async |me: Process<PiecesMessage>| {
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let long = Bytes::from(vec![7; MAX_PIECE_LEN + 1]);
        Ok(chan.remote().open(long, client).await.unwrap_err().reason)
    });
    assert!(matches!(ended.await, Ok(CallFailure::Refused(_))));
}

/// A provider that takes no bytes keeps no place of a consumer that has left.
#[tokio::test(flavor = "multi_thread")]
async fn place_of_consumer_outlives_stuck_provider_by_ten_seconds() {
    let server = server("");
    let chan = provider_session(&server).await;
    let mut kept = Vec::<Address<PiecesMessage>>::new();
    let process = streams(move |StreamsMessage::Open { reply, .. }| {
        let stream = spawn(async |me: Process<PiecesMessage>| {
            me.pid().ended().await;
            Ok(())
        });
        kept.push(stream.clone());
        reply.send(stream);
    });
    chan.remote().provide(process, 9).await.unwrap();
    let consumer = consumer_session(&server).await;
    let opened = enter(async |me: Process<PiecesMessage>| {
        me.trap_exit(true);
        let client = me.address().grant(Rights { link: true, ..Rights::default() });
        let far = consumer.remote().open(Bytes::new(), client).await?;
        let bytes = Bytes::from(vec![7; MAX_PIECE_LEN]);
        // Until neither end on the way takes more.
        while far.within(Duration::from_secs(1)).piece(bytes.clone()).await.is_ok() {}
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(server.event("stream_ended")["reason"], "failed: the provider took no bytes");
}

/// The file of a configuration that names one half only.
#[test]
fn check_names_the_missing_half() {
    let folder = Folder::new();
    folder.write("password", &format!("{PASSWORD}\n"));
    folder.write("providers", &format!("{PROVIDERS}\n"));
    let check = |services: &str| {
        let file: PathBuf = folder.write("c.toml", &format!("listen = ['127.0.0.1:0']\n{services}"));
        run(Command::new(program("chan-server")).args(["check", "--config"]).arg(file))
    };
    assert_eq!(check(&services("office", "")).0, Some(0));
    let half = services("office", "").replace("'for', 'office'", "'for', 'ofice'");
    let (code, _, complaint) = check(&half);
    assert_eq!(code, Some(2));
    assert!(
        complaint.contains("no service takes the providers of \"office\"; did you mean \"ofice\"?"),
        "{complaint}"
    );
}
