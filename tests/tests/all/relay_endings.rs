//! EOF, reset and loss of a stream that is carried, told apart at both ends; and the limits of `forward` and `pipe`.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use chan_tests::{Folder, PATIENCE, Proxy, Running, Server, nobody, run};

use super::relay::{forward_by, in_front_of, in_front_of_port, listen};

/// Of 5 MB in each direction, what the other end has when the cut comes.
const PART: usize = 2_000_000;

/// A target that sends a part of 5 MB, and says when it has got as much, and how it then ended.
fn target() -> (u16, Receiver<Result<(), ErrorKind>>) {
    let (tell, told) = channel();
    let port = listen(move |mut stream| {
        let tell = tell.clone();
        let mut back = stream.try_clone().unwrap();
        std::thread::spawn(move || back.write_all(&vec![7; PART]));
        std::thread::spawn(move || {
            let mut part = vec![0; PART];
            tell.send(stream.read_exact(&mut part).map_err(|error| error.kind())).unwrap();
            let ended = std::io::copy(&mut stream, &mut std::io::sink());
            tell.send(ended.map(|_| ()).map_err(|error| error.kind())).unwrap();
        });
    });
    (port, told)
}

/// A 5 MB transfer in both directions at once, half done.
struct HalfDone {
    server: Server,
    proxy: Proxy,
    forward: Running,
    local: TcpStream,
    target: Receiver<Result<(), ErrorKind>>,
}

impl HalfDone {
    fn start() -> Self {
        Self::start_with("", "0")
    }

    /// The same, with these limits of the server and this time for an outage.
    fn start_with(limits: &str, resume: &str) -> Self {
        let (port, target) = target();
        let server = in_front_of(&format!("['tcp', 'connect', '127.0.0.1:{port}']\n[limits]\n{limits}"));
        let proxy = Proxy::before(server.url("s"));
        let (forward, port) = forward_by(&server, &proxy.url(server.url("s")), &["--resume", resume]);
        let mut local = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        local.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut back = local.try_clone().unwrap();
        let sending = std::thread::spawn(move || back.write_all(&vec![7; PART]).unwrap());
        local.read_exact(&mut vec![0; PART]).unwrap();
        sending.join().unwrap();
        assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
        Self { server, proxy, forward, local, target }
    }

    /// Neither end takes what it got for all there is.
    fn assert_reset(mut self) {
        let local = self.local.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(local, Err(ErrorKind::ConnectionReset), "the local program");
        self.assert_target_reset();
    }

    fn assert_target_reset(self) {
        let target = self.target.recv_timeout(PATIENCE).unwrap();
        assert_eq!(target, Err(ErrorKind::ConnectionReset), "the target");
    }
}

/// `chan-client pipe` with this time for an outage.
fn pipe(server: &Server, resume: &str) -> Command {
    let mut pipe = server.client("pipe", "s");
    pipe.args(["--resume", resume]);
    pipe
}

#[test]
fn killed_forward_resets_both_ends() {
    for signal in ["KILL", "TERM"] {
        let half = HalfDone::start();
        half.forward.signal(signal);
        half.assert_reset();
    }
}

#[test]
fn killed_server_resets_both_ends() {
    let half = HalfDone::start();
    half.server.signal("KILL");
    half.assert_reset();
}

#[test]
fn stopped_server_resets_both_ends() {
    let half = HalfDone::start();
    half.server.signal("TERM");
    half.server.event("draining");
    half.server.signal("TERM");
    half.assert_reset();
}

#[test]
fn cut_network_resets_both_ends() {
    let half = HalfDone::start();
    half.proxy.cut();
    half.assert_reset();
}

#[test]
fn silent_network_resets_both_ends() {
    let half = HalfDone::start_with("heartbeat_interval = '1 s'", "0");
    half.proxy.swallow();
    half.assert_reset();
}

#[test]
fn carried_stream_is_reset_after_its_window() {
    let half = HalfDone::start_with("", "1s");
    half.proxy.redirect(&nobody());
    half.proxy.cut();
    half.forward.err.wait("the outage", |line| line == "chan-client: reconnecting…");
    half.forward.err.wait("the end", |line| line.contains("the connection was lost"));
    half.assert_reset();
}

/// Five megabytes each way while the connection is cut again and again, and the true EOF of both.
#[test]
fn carried_stream_survives_cuts() {
    let mut half = HalfDone::start_with("", "1m");
    for cut in 1..=5 {
        half.proxy.cut();
        half.forward.err.wait_for("next connection", |lines| {
            lines.iter().filter(|line| *line == "chan-client: reconnected").count() == cut
        });
        half.local.write_all(&vec![7; PART / 2]).unwrap();
    }
    half.local.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.target.recv_timeout(PATIENCE).unwrap(), Ok(()));
    assert_eq!(half.local.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn forward_repeats_a_login_that_was_cut() {
    let port = listen(|mut stream| {
        let _ = stream.write_all(b"hello");
    });
    let server = in_front_of_port(port);
    let proxy = Proxy::before(server.url("s"));
    let (forward, port) = forward_by(&server, &proxy.url(server.url("s")), &["--verbose", "--isolate"]);
    // The length of a certificate varies, so the place of the login among the server's bytes is looked for.
    let cut_during_login = |line: &String| line.contains("the server closed the connection during the login");
    for bytes in (1_600..).step_by(40) {
        proxy.cut_next_after(bytes);
        let mut local = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        let mut said = String::new();
        let read = local.read_to_string(&mut said);
        if forward.err.all().iter().any(cut_during_login) {
            assert_eq!((read.map_err(|error| error.kind()), &*said), (Ok(5), "hello"));
            return;
        }
        assert!(bytes < 2_600, "no cut during a login: {:#?}", forward.err.all());
    }
}

#[test]
fn ended_forward_and_pipe_leave_no_target_waiting() {
    // The server would keep the target for a minute, which is longer than the test waits.
    let half = HalfDone::start_with("", "1h");
    half.forward.signal("TERM");
    half.assert_reset();
    for signal in ["TERM", "INT", "HUP"] {
        let (port, target) = target();
        let server = in_front_of_port(port);
        let mut pipe = Running::start_unread(pipe(&server, "1h"));
        pipe.stdin.as_mut().unwrap().write_all(&vec![7; PART]).unwrap();
        assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
        pipe.signal(signal);
        assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset), "{signal}");
    }
}

#[test]
fn killed_pipe_keeps_target_for_window() {
    let (port, target) = target();
    let server = in_front_of_port(port);
    let mut pipe = Running::start_unread(pipe(&server, "1s"));
    pipe.stdin.as_mut().unwrap().write_all(&vec![7; PART]).unwrap();
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
    pipe.signal("KILL");
    server.event("session_detached");
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    assert_eq!(server.event("session_ended")["reason"], "noconnection");
}

#[test]
fn killed_server_fails_pipe() {
    let (port, target) = target();
    let server = in_front_of_port(port);
    let mut pipe = Running::start_unread(pipe(&server, "0"));
    pipe.stdin.as_mut().unwrap().write_all(&vec![7; PART]).unwrap();
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
    server.signal("KILL");
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    // Its input is still open, and what it has written is not the whole.
    pipe.err.wait("the loss", |line| line.contains("connection was lost"));
    assert_eq!(pipe.code(), Some(9));
}

#[test]
fn local_reset_reaches_target_as_reset() {
    let half = HalfDone::start();
    socket2::SockRef::from(&half.local).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    let Ok(spare) = TcpListener::bind("127.0.0.1:0") else { panic!("no port") };
    let other = TcpStream::connect(spare.local_addr().unwrap()).unwrap();
    let HalfDone { server, proxy, forward, local, target } = half;
    drop(local);
    HalfDone { server, proxy, forward, local: other, target }.assert_target_reset();
}

#[test]
fn killed_pipe_resets_target() {
    let (port, target) = target();
    let server = in_front_of_port(port);
    let mut pipe = Running::start_unread(pipe(&server, "0"));
    pipe.stdin.as_mut().unwrap().write_all(&vec![7; PART]).unwrap();
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
    pipe.signal("KILL");
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn eof_of_both_directions_is_passed_on() {
    let HalfDone { server: _server, proxy: _proxy, forward, mut local, target } = HalfDone::start();
    local.shutdown(Shutdown::Write).unwrap();
    assert_eq!(target.recv_timeout(PATIENCE).unwrap(), Ok(()));
    // The target has dropped its connection, in good order.
    assert_eq!(local.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(forward.err.all(), Vec::<String>::new());
}

#[test]
fn pipe_ends_after_service_eof_with_open_input() {
    let port = listen(|mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // It listens on.
        std::thread::spawn(move || stream.read(&mut [0; 1]));
    });
    let server = in_front_of_port(port);
    let mut pipe = server.client("pipe", "s");
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _open = pipe.stdin.take();
    let mut said = String::new();
    pipe.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    assert_eq!(pipe.wait().unwrap().code(), Some(0));
}

#[test]
fn pipe_closes_output_while_it_still_uploads() {
    let (tell, told) = channel();
    let port = listen(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let ended = stream.read_to_end(&mut all).map_err(|error| error.kind());
            tell.send(ended).unwrap();
        });
    });
    let server = in_front_of_port(port);
    let mut pipe = server.client("pipe", "s");
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = pipe.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || input.write_all(&vec![7; PART]).map(|()| input));
    let mut said = String::new();
    pipe.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    drop(feeding.join().unwrap().unwrap());
    assert_eq!(pipe.wait().unwrap().code(), Some(0));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(PART));
}

#[test]
fn log_names_target_that_is_not_found() {
    let server = in_front_of("['tcp', 'connect', 'nobody.invalid:1']");
    let (code, _, complaint) = run(&mut server.client("pipe", "s"));
    assert_eq!(code, Some(7), "{complaint}");
    assert!(complaint.contains("failed: target: name not found"), "{complaint}");
    let why = server.event("target_failed")["why"].to_string();
    assert!(why.contains("nobody.invalid:1: no address found: "), "{why}");
}

#[test]
fn connection_beyond_limit_is_reset_by_name() {
    let port = listen(|mut stream| {
        std::thread::spawn(move || {
            let mut back = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut back)
        });
    });
    let server = in_front_of_port(port);
    let (forward, port) = forward_by(&server, server.url("s"), &["--max-connections", "1"]);
    let connect = || TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let echoes =
        |stream: &mut TcpStream| stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0; 1]));
    let mut first = connect();
    echoes(&mut first).unwrap();
    let mut second = connect();
    // Depending on who is first, the write or the read learns of the reset.
    assert!(echoes(&mut second).is_err());
    forward.err.wait("the limit", |line| line.contains("1 are open, the most that --max-connections allows"));
    first.shutdown(Shutdown::Both).unwrap();
    // Its place comes back when its session has ended.
    while echoes(&mut connect()).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn forwarded_port_is_on_both_loopback_addresses() {
    let port = listen(|mut stream| stream.write_all(b"here").unwrap());
    let server = in_front_of_port(port);
    let (_forward, port) = forward_by(&server, server.url("s"), &[]);
    for address in ["127.0.0.1", "[::1]"] {
        if TcpListener::bind(format!("{address}:0")).is_err() {
            eprintln!("skipped: no {address}");
            continue;
        }
        let mut here = String::new();
        TcpStream::connect(format!("{address}:{port}")).unwrap().read_to_string(&mut here).unwrap();
        assert_eq!(here, "here");
    }
}

#[test]
fn forwarding_for_others_is_warned_of() {
    let server = in_front_of_port(1);
    let mut forward = server.client_at("forward", "0.0.0.0:0", &server.folder.path().join("password"));
    forward.arg(server.url("s"));
    let forward = Running::start(forward);
    forward.err.wait("the warning", |line| line.contains("warning: anybody who can reach 0.0.0.0:"));
}

/// Half an upload to a Unix socket, which tells an end in two steps: an EOF, and then that nobody is there to write to.
/// An EOF that was sent leaves somebody there.
fn unix_upload(end: impl FnOnce(&Server, &mut Running)) -> ErrorKind {
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = in_front_of(&format!("['unix', 'connect', '{}']", path.display()));
    let mut pipe = Running::start_unread(pipe(&server, "0"));
    let (mut stream, _) = listener.accept().unwrap();
    pipe.stdin.as_mut().unwrap().write_all(b"half").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    end(&server, &mut pipe);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    match stream.write_all(b"x") {
        Err(error) => error.kind(),
        Ok(()) => {
            drop(stream);
            assert_eq!(pipe.code(), Some(0));
            ErrorKind::UnexpectedEof
        }
    }
}

#[test]
fn unix_target_sees_close_of_killed_end() {
    assert_eq!(unix_upload(|_, pipe| pipe.signal("KILL")), ErrorKind::BrokenPipe, "pipe");
    assert_eq!(unix_upload(|server, _| server.signal("KILL")), ErrorKind::BrokenPipe, "server");
    assert_eq!(unix_upload(|_, pipe| drop(pipe.stdin.take())), ErrorKind::UnexpectedEof, "nobody was killed");
}
