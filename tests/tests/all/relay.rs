//! Bytes through `tcp:connect` and `unix:connect`, carried by `chan-client forward` and `pipe`, for programs that know
//! nothing of it.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use chan_client::connect;
use chan_tests::{Folder, Lines, PASSWORD, PATIENCE, Running, Server, available, program, run};
use lib_chan::{Limits, payload::Codec, relay::Relay, secret::Password};

/// A server with a service `s` in front of something.
pub(super) fn in_front_of(mfa: &str) -> Server {
    Server::start(&format!("[[service]]\nname = 's'\npassword_file = 'password'\nmfa = {mfa}"))
}

pub(super) fn in_front_of_port(port: u16) -> Server {
    in_front_of(&format!("['tcp', 'connect', '127.0.0.1:{port}']"))
}

/// `chan-client forward`, and the port where it listens.
fn forward(server: &Server) -> (Running, String) {
    forward_by(server, server.url("s"), &[])
}

/// The same by way of another URL, and with these options.
pub(super) fn forward_by(server: &Server, url: &str, options: &[&str]) -> (Running, String) {
    let mut client = Command::new(program("chan-client"));
    client.args(["forward", "0", url]).args(options).arg("--password-file");
    client.arg(server.folder.path().join("password")).env("HOME", server.folder.path());
    let client = Running::start(client);
    let line = client.out.wait("listening", |line| line.starts_with("listening"));
    let port = line.rsplit(':').next().expect("a port").to_owned();
    (client, port)
}

/// A program of the system that goes with the test.
pub(super) struct Daemon(Child);

impl Daemon {
    fn start(mut command: Command, ready: &str) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdin(Stdio::null()).stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        let child = command.spawn().expect("it starts");
        // It holds ends of the pipe that would keep it open.
        drop(command);
        let daemon = Self(child);
        Lines::of(reader).wait(ready, |line| line.contains(ready));
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A TCP server that does this with each connection.
pub(super) fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            serve(stream);
        }
    });
    port
}

/// Floods, and reads nothing, where the first byte is `f`; otherwise returns what it gets.
pub(super) fn flooding() -> u16 {
    listen(|mut stream| {
        thread::spawn(move || {
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            if first == *b"f" {
                let _ = stream.write_all(&vec![7; 64 << 20]);
            } else {
                stream.write_all(&first).unwrap();
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut back);
            }
        });
    })
}

/// A connection to this port.
pub(super) fn local(port: &str) -> TcpStream {
    let local = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    local.set_write_timeout(Some(PATIENCE)).unwrap();
    local
}

/// A connection to a [`flooding`] target that reads nothing, and is full both ways.
pub(super) fn stalled(port: &str) -> TcpStream {
    let mut local = local(port);
    local.write_all(b"f").unwrap();
    let mut uploading = local.try_clone().unwrap();
    uploading.set_nonblocking(true).unwrap();
    while uploading.write(&[7; 65_536]).is_ok() {}
    local
}

/// Sends a line and waits until it comes back.
pub(super) fn ask(local: &mut TcpStream, line: &[u8]) {
    local.write_all(line).unwrap();
    let mut back = vec![0; line.len()];
    local.read_exact(&mut back).unwrap();
    assert_eq!(back, line);
}

// Redis.

pub(super) fn redis(folder: &Folder) -> (Daemon, PathBuf) {
    let socket = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).arg("--dir").arg(folder.path());
    (Daemon::start(redis, "ready to accept connections"), socket)
}

/// In front of the socket, so that the other way in is tried too and no port has to be guessed.
pub(super) fn tcp_in_front_of(socket: PathBuf) -> u16 {
    listen(move |near| {
        let far = std::os::unix::net::UnixStream::connect(&socket).expect("redis listens");
        let (mut near_in, mut far_out) =
            (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        let (mut near_out, mut far_in) = (near, far);
        thread::spawn(move || {
            let _ = std::io::copy(&mut near_in, &mut far_out);
            let _ = far_out.shutdown(Shutdown::Write);
        });
        thread::spawn(move || {
            let _ = std::io::copy(&mut far_in, &mut near_out);
            let _ = near_out.shutdown(Shutdown::Write);
        });
    })
}

#[test]
fn redis_answers_behind_socket_and_port() {
    if !available("redis-server") || !available("redis-cli") {
        return;
    }
    let folder = Folder::new();
    let (_redis, socket) = redis(&folder);
    let by_socket = in_front_of(&format!("['unix', 'connect', '{}']", socket.display()));
    let by_port = in_front_of_port(tcp_in_front_of(socket));
    let value = "writing a book ".repeat(10_000);
    let file = folder.write("value", &value);
    for server in [&by_socket, &by_port] {
        let (_forward, port) = forward(server);
        let cli = |arguments: &[&str]| run(Command::new("redis-cli").args(["-p", &port]).args(arguments));
        assert_eq!(cli(&["PING"]), (Some(0), "PONG\n".into(), String::new()));
        let mut set = Command::new("redis-cli");
        set.args(["-p", &port, "-x", "SET", "joe"]).stdin(fs::File::open(&file).unwrap());
        assert_eq!(run(&mut set).1, "OK\n");
        assert_eq!(cli(&["GET", "joe"]).1.trim_end_matches('\n'), value);
    }
}

#[test]
fn redis_benchmark_runs_with_its_fifty_connections() {
    if !available("redis-server") || !available("redis-benchmark") {
        return;
    }
    let folder = Folder::new();
    let (_redis, socket) = redis(&folder);
    let server = in_front_of(&format!("['unix', 'connect', '{}']", socket.display()));
    let (forward, port) = forward(&server);
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args(["-p", &port, "-n", "5000", "-c", "50", "-P", "4", "-t", "set,get", "-d", "500", "-q"]);
    let (code, out, complaint) = run(&mut benchmark);
    assert_eq!(code, Some(0), "{out}{complaint}\n{:?}", forward.err.all());
    for test in ["SET: ", "GET: "] {
        let line = out.split(['\r', '\n']).rfind(|line| line.starts_with(test));
        assert!(line.is_some_and(|line| line.contains("requests per second")), "{out}{complaint}");
    }
    assert_eq!(forward.err.all(), Vec::<String>::new());
}

// PostgreSQL.

/// A command as a user that is not root, which `initdb` insists on.
fn as_nobody(name: &str) -> Command {
    let root = run(Command::new("id").arg("-u")).1.trim() == "0";
    let mut command = Command::new(if root { "setpriv" } else { name });
    if root {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", name]);
    }
    command.current_dir("/");
    command
}

#[test]
fn psql_talks_to_postgres() {
    if !["initdb", "postgres", "psql", "setpriv"].iter().all(|program| available(program)) {
        return;
    }
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let data = folder.path().join("data");
    let (code, out, complaint) =
        run(as_nobody("initdb").args(["-A", "trust", "-U", "joe", "--no-sync", "-D"]).arg(&data));
    assert_eq!(code, Some(0), "{out}{complaint}");
    let mut postgres = as_nobody("postgres");
    postgres.arg("-D").arg(&data).arg("-k").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off"]);
    let _postgres = Daemon::start(postgres, "ready to accept connections");
    let server = in_front_of(&format!("['unix', 'connect', '{}']", data.join(".s.PGSQL.5432").display()));
    let (_forward, port) = forward(&server);
    let psql = |sql: &str| {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", "joe", "-d", "postgres", "-qtAX", "-c", sql]);
        run(psql.env("HOME", folder.path()))
    };
    assert_eq!(psql("select 6 * 7"), (Some(0), "42\n".into(), String::new()));
    // Far more than all windows and buffers on the way together hold.
    let (code, out, complaint) = psql("select repeat('x', 100) from generate_series(1, 100000)");
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert_eq!(out.len(), 101 * 100_000);
}

// Git.

#[test]
fn git_clones_through_a_pipe() {
    if !available("git") {
        return;
    }
    let folder = Folder::new();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(folder.path()).env("HOME", folder.path()).args(arguments);
        for variable in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
            git.env(variable, "joe");
        }
        git
    };
    let done = |mut git: Command| {
        let (code, out, complaint) = run(&mut git);
        assert_eq!(code, Some(0), "{git:?}: {out}{complaint}");
    };
    done(git(&["init", "-q", "book"]));
    // Larger than what is under way at once, and nothing that packs well.
    let mut state = 1_u64;
    let noise: String = (0..400_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + (state >> 58) as u8)
        })
        .collect();
    fs::write(folder.path().join("book/chapter"), &noise).unwrap();
    done(git(&["-C", "book", "add", "chapter"]));
    done(git(&["-C", "book", "commit", "-qm", "All of it"]));

    let base = folder.path().to_owned();
    let port = listen(move |stream| {
        let mut daemon = Command::new("git");
        daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", base.display()));
        daemon.env("HOME", &base).stderr(Stdio::null());
        let (near, far) = (stream.try_clone().expect("a socket"), stream);
        daemon.stdin(std::os::fd::OwnedFd::from(near)).stdout(std::os::fd::OwnedFd::from(far));
        let mut child = daemon.spawn().expect("git has a daemon");
        thread::spawn(move || child.wait());
    });
    let server = in_front_of_port(port);
    // What git is told to run instead of connecting by itself.
    let script = format!(
        "#!/bin/sh\nexec '{}' pipe '{}' --password-file '{}'\n",
        program("chan-client").display(),
        server.url("s"),
        server.folder.path().join("password").display()
    );
    let script = folder.write("through-chan", &script);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let mut clone = git(&["clone", "-q", "git://anywhere/book", "copy"]);
    clone.env("GIT_PROXY_COMMAND", &script).env("GIT_ALLOW_PROTOCOL", "git");
    done(clone);
    let copied = fs::read_to_string(folder.path().join("copy/chapter")).unwrap();
    assert!(copied == noise, "what was cloned is not what was there");
}

// SSH.

#[test]
fn ssh_runs_through_pipe_as_proxy_command() {
    let sshd = Path::new("/usr/sbin/sshd");
    if !["ssh", "ssh-keygen", "/usr/sbin/sshd"].iter().all(|program| available(program)) {
        return;
    }
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name);
    for key in ["host", "user"] {
        let made =
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)));
        assert_eq!(made.0, Some(0), "{made:?}");
    }
    let config = folder.write(
        "sshd_config",
        &format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n",
            path("host").display(),
            path("user.pub").display()
        ),
    );
    if Command::new(sshd).args(["-t", "-f"]).arg(&config).output().is_ok_and(|test| !test.status.success()) {
        // As root it wants a directory that the package's start script makes.
        fs::create_dir_all("/run/sshd").expect("a directory for sshd");
    }
    let port = listen(move |stream| {
        let mut sshd = Command::new(sshd);
        sshd.args(["-i", "-f"]).arg(&config).stderr(Stdio::null());
        let (near, far) = (stream.try_clone().expect("a socket"), stream);
        sshd.stdin(std::os::fd::OwnedFd::from(near)).stdout(std::os::fd::OwnedFd::from(far));
        let mut child = sshd.spawn().expect("sshd starts");
        thread::spawn(move || child.wait());
    });
    let server = in_front_of_port(port);
    let through = format!(
        "ProxyCommand={} pipe '{}' --password-file {}",
        program("chan-client").display(),
        server.url("s"),
        server.folder.path().join("password").display()
    );
    let user = run(Command::new("id").arg("-un")).1.trim().to_owned();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", &through, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
    ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"]);
    ssh.arg("-i").arg(path("user")).arg(format!("{user}@anywhere")).stdin(Stdio::null());
    ssh.arg("head -c 3000000 /dev/zero; exit 23");
    let output = ssh.output().expect("ssh starts");
    assert_eq!(output.status.code(), Some(23), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 3_000_000);
}

// Streams and their ends.

/// `chan-client pipe`, fed from a file.
fn pipe(server: &Server, input: &Path) -> (Option<i32>, Vec<u8>, String) {
    let mut client = server.client("pipe", "s");
    let output = client.stdin(fs::File::open(input).unwrap()).output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn eof_leaves_other_direction_open() {
    // It answers when it has heard all, so only a client whose end arrives is ever answered.
    let counts = listen(|mut stream| {
        let count = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        write!(stream, "{count} bytes").unwrap();
    });
    let folder = Folder::new();
    let input = folder.write("input", &"x".repeat(3_000_000));
    let (code, out, complaint) = pipe(&in_front_of_port(counts), &input);
    assert_eq!((code, out.as_slice()), (Some(0), &b"3000000 bytes"[..]), "{complaint}");
}

#[test]
fn half_closed_service_hears_the_rest() {
    let (tell, told) = std::sync::mpsc::channel();
    let port = listen(move |mut stream| {
        stream.write_all(b"all I have to say").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        tell.send(heard.len()).unwrap();
    });
    let folder = Folder::new();
    let input = folder.write("input", &"x".repeat(3_000_000));
    // It lives on after the client, to say the rest.
    let server = in_front_of_port(port);
    let (code, out, complaint) = pipe(&server, &input);
    assert_eq!((code, out.as_slice()), (Some(0), &b"all I have to say"[..]), "{complaint}");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 3_000_000);
}

#[test]
fn many_megabytes_come_back_unchanged() {
    let echo = listen(|stream| {
        let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
        std::io::copy(&mut from, &mut to).unwrap();
    });
    let folder = Folder::new();
    let text: String = (0..1_000_000).map(|number| format!("{number:08}\n")).collect();
    let input = folder.write("input", &text);
    let (code, out, complaint) = pipe(&in_front_of_port(echo), &input);
    assert_eq!(code, Some(0), "{complaint}");
    assert!(out == text.as_bytes(), "{} bytes came back", out.len());
}

#[test]
fn pieces_fit_both_ends() {
    let echo = listen(|stream| {
        let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
        std::io::copy(&mut from, &mut to).unwrap();
    });
    let text: String = (0..100_000).map(|number| format!("{number:08}\n")).collect();
    let service = format!(
        "[[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['tcp', 'connect', '127.0.0.1:{echo}']\n"
    );
    // The shortest frames that there are: what the server takes, then what the client takes.
    let server = Server::start(&format!("{service}[limits]\nmax_frame_len = '1 KiB'"));
    let input = server.folder.write("input", &text);
    let (code, out, complaint) = pipe(&server, &input);
    assert_eq!(code, Some(0), "{complaint}");
    assert!(out == text.as_bytes(), "{} bytes came back", out.len());

    let server = Server::start(&service);
    let mut limits = Limits::default();
    limits.max_frame_len = 1024;
    let password = Password::new(PASSWORD).unwrap();
    let mut back = Vec::new();
    let relayed = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connect = connect(server.url("s")).password(&password).limits(limits).codec(Codec::Raw);
        Relay::new("stream").run(connect.open().await.unwrap(), text.as_bytes(), &mut back).await
    });
    assert!(relayed.is_ok(), "{relayed:?}");
    assert!(back == text.as_bytes(), "{} bytes came back", back.len());
}

#[test]
fn local_reset_reaches_server_with_reason() {
    let port = listen(|mut stream| stream.write_all(b"unread").unwrap());
    let server = in_front_of_port(port);
    let (_forward, port) = forward(&server);
    let local = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    // Waits until there is something, and leaves it unread: so the close that follows is a reset.
    assert_eq!(local.peek(&mut [0]).unwrap(), 1);
    drop(local);
    let reason = "\"reason\":\"failed: the client's stream: connection reset\"";
    server.log.wait(reason, |line| line.contains("stream_ended") && line.contains(reason));
}

#[test]
fn refused_connection_is_reason_of_end() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = in_front_of_port(unused);
    let (code, out, complaint) = run(&mut server.client("pipe", "s"));
    assert_eq!((code, out.as_str()), (Some(7), ""), "{complaint}");
    assert!(complaint.contains("failed: target: connection refused"), "{complaint}");
    assert!(!complaint.contains(&unused.to_string()), "addresses stay at home: {complaint}");
    assert_eq!(server.event("session_ended")["reason"], "failed: target: connection refused");
}

#[test]
fn reset_of_target_is_not_eof() {
    let port = listen(|mut stream| {
        stream.write_all(b"the first half").unwrap();
        // What is unread when a socket closes turns the close into a reset.
        stream.read_exact(&mut [0]).unwrap();
    });
    let server = in_front_of_port(port);
    let folder = Folder::new();
    let input = folder.write("input", &"x".repeat(100_000));
    let (code, _, complaint) = pipe(&server, &input);
    assert_eq!(code, Some(7), "{complaint}");
    assert!(complaint.contains("failed: target: connection reset"), "{complaint}");
}

#[test]
fn forward_resets_lost_connection_and_continues() {
    let port = listen(|mut stream| {
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        if &word == b"fail" {
            // Unread bytes: a reset.
            let _ = stream.read(&mut [0; 1]);
        } else {
            stream.write_all(&word).unwrap();
        }
    });
    let server = in_front_of_port(port);
    let (forward, port) = forward(&server);
    let mut failing = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    failing.write_all(b"fail and more").unwrap();
    let error = failing.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    forward.err.wait("connection reset", |line| line.contains("connection reset"));
    let mut working = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    working.write_all(b"work").unwrap();
    let mut word = [0; 4];
    working.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"work");
}
