//! A running server in the hands of its operator: reloads, revoked clients, lists, kicks, drains and its log.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chan_server::identity::{Identity, StateDir};
use chan_tests::{
    Folder, PASSWORD, Running, Server, available, client_key, port_of, program,
    reloads::{Options, campaign},
    run,
};

fn echo() -> String {
    "[[service]]\nname = \"echo\"\npassword_file = \"password\"\nmfa = [\"echo\", \"start\"]\n".into()
}

/// A service whose client `joe` has the key in the file `key`.
fn names() -> String {
    format!(
        "[[service]]\nname = \"names\"\nmfa = [\"name_server\", \"start_me_up\"]\n\
         [[service.client]]\nname = \"joe\"\nkey = \"{}\"\n",
        client_key().public_key()
    )
}

fn start(services: &str) -> Server {
    let folder = Folder::new();
    folder.write("key", &client_key().to_file_contents());
    Server::start_in(folder, services)
}

/// Writes another configuration for the server.
fn configure(server: &Server, services: &str) {
    server.folder.write("chan-server.toml", &format!("listen = [\"127.0.0.1:0\"]\n{services}"));
}

/// `chan-server` with the state directory of the server.
fn operator(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("chan-server"));
    command.args(arguments).arg("--state").arg(server.folder.path().join("state"));
    command.current_dir(server.folder.path()).stdin(Stdio::null());
    command
}

fn operate(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(&mut operator(server, arguments))
}

#[track_caller]
fn done(server: &Server, arguments: &[&str]) -> String {
    let (code, out, err) = operate(server, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    out
}

/// A client that stays until its session ends.
fn stays(server: &Server) -> Running {
    let mut client = Command::new(program("chan-client"));
    client.args(["receive", server.url("names for joe"), "--key-file"]).arg(server.folder.path().join("key"));
    client.env("HOME", server.folder.path());
    Running::start(client)
}

/// Waits for so many lines of an event.
fn events(server: &Server, event: &str, count: usize) {
    let named = format!("\"event\":\"{event}\"");
    server.log.wait_for(&named, |lines| lines.iter().filter(|line| line.contains(&named)).count() >= count);
}

#[test]
fn hangup_reloads_and_breaks_nothing() {
    let server = start(&(echo() + &names()));
    let client = stays(&server);
    events(&server, "session_started", 1);
    configure(
        &server,
        &format!("# another order\n{}{}", names(), echo().replace("\"echo\"\n", "\"other\"\n")),
    );
    server.signal("HUP");
    let reloaded = server.event("reloaded");
    assert_eq!(reloaded["ends"], 0, "{reloaded}");
    let changes = reloaded["changes"].to_string();
    assert!(
        changes.contains("added: service other") && changes.contains("removed: service echo"),
        "{changes}"
    );
    let other = server.url("echo").replace("/echo?", "/other?");
    let password = server.folder.path().join("password");
    assert_eq!(run(server.client_at("call", &other, &password).arg("1")).0, Some(0));
    let (code, _, complaint) = run(server.client("call", "echo").arg("1"));
    assert_eq!(code, Some(5), "{complaint}");
    assert!(!server.log.all().iter().any(|line| line.contains("session_ended") && line.contains("joe")));
    drop(client);
}

#[test]
fn broken_configuration_changes_nothing_and_says_why() {
    let server = start(&(echo() + &names()));
    let _client = stays(&server);
    events(&server, "session_started", 1);
    configure(&server, &format!("{}pasword = 'x'\n", names()));
    let (code, out, err) = operate(&server, &["reload"]);
    assert_eq!((code, &*out), (Some(2), ""), "{err}");
    assert!(err.contains("chan-server.toml:8: unknown key \"pasword\""), "{err}");
    server.signal("HUP");
    events(&server, "reload_failed", 2);
    let failed = server.event("reload_failed");
    assert!(failed["why"].as_str().unwrap().contains("unknown key"), "{failed}");
    assert_eq!(run(server.client("call", "echo").arg("1")).0, Some(0));
    assert!(done(&server, &["sessions"]).contains("joe"));
}

#[test]
fn difference_is_told_before_it_is_made() {
    let server = start(&(echo() + &names()));
    let client = stays(&server);
    events(&server, "session_started", 1);
    let file = server.folder.write("new.toml", &format!("listen = [\"127.0.0.1:0\"]\n{}", echo()));
    let said = done(&server, &["check", "--diff", "--config", file.to_str().unwrap()]);
    assert!(said.contains("no mistakes\n") && said.contains("removed: service names\n"), "{said}");
    assert!(
        said.contains("of joe at names from 127.0.0.1:") && said.contains(": the service is removed"),
        "{said}"
    );
    assert!(done(&server, &["sessions"]).contains(" open "));
    fs::rename(file, server.folder.path().join("chan-server.toml")).unwrap();
    let did = done(&server, &["reload"]);
    assert!(said.ends_with(&did), "{said}{did}");
    client.err.wait("revoked", |line| line.contains("revoked"));
    assert_eq!(server.event("revoking")["why"], "the service is removed");
    assert_eq!(server.event("session_ended")["reason"], "revoked");
}

#[test]
fn sessions_are_listed_and_kicked() {
    let server = start(&names());
    let client = stays(&server);
    events(&server, "session_started", 1);
    let list: serde_json::Value = serde_json::from_str(&done(&server, &["sessions", "--json"])).unwrap();
    let session = &list[0];
    assert_eq!(
        (&session["service"], &session["client"], &session["state"]),
        (&"names".into(), &"joe".into(), &"open".into())
    );
    assert_eq!(session["connection"], server.event("session_started")["connection"]);
    let status: serde_json::Value = serde_json::from_str(&done(&server, &["status", "--json"])).unwrap();
    assert_eq!((&status["phase"], &status["sessions"]), (&"serving".into(), &1.into()));
    assert_eq!(operate(&server, &["kick", "--client", "mike"]).0, Some(2));
    let id = session["connection"].to_string();
    assert_eq!(done(&server, &["kick", &id]), format!("ended: session {id}\n"));
    client.err.wait("shutdown", |line| line.contains("shutdown"));
    server.event("kicked");
    assert_eq!(server.event("session_ended")["reason"], "shutdown");
}

#[test]
fn drain_returns_when_the_server_has_ended() {
    let mut server = start(&(names() + "[limits]\ndrain_timeout = \"60 s\"\n"));
    let client = stays(&server);
    events(&server, "session_started", 1);
    let draining = Running::start(operator(&server, &["drain"]));
    draining.out.wait("Waiting", |line| line.starts_with("Waiting for 1 session"));
    server.event("draining");
    assert!(done(&server, &["status"]).contains("draining"));
    assert_eq!(done(&server, &["kick", "--service", "names"]).lines().count(), 1);
    draining.out.wait("its end", |line| line == "The server has ended.");
    assert_eq!((draining.code(), server.wait().code()), (Some(0), Some(0)));
    assert!(!server.folder.path().join("state/admin.sock").exists());
    drop(client);
}

#[test]
fn no_server_is_told_as_that() {
    let folder = Folder::new();
    let mut command = Command::new(program("chan-server"));
    let (code, _, err) = run(command.args(["reload", "--state"]).arg(folder.path()));
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot ask the server at ") && err.contains("is it running"), "{err}");
}

#[test]
fn socket_is_private_and_survives_kill() {
    use std::os::unix::fs::PermissionsExt;
    let mut server = start(&names());
    let socket = server.folder.path().join("state/admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    server.signal("KILL");
    server.wait();
    assert!(socket.exists());
    let folder = Folder::new();
    folder.write("password", PASSWORD);
    let mut again = operator(&server, &["serve", "--config", "chan-server.toml"]);
    again.env("HOME", folder.path());
    let again = Running::start(again);
    again.out.wait("Listening", |line| line.starts_with("Listening"));
    assert!(done(&server, &["status"]).contains("serving"));
    // A second server in the same state directory leaves the socket to the first.
    let second = Running::start(operator(&server, &["serve", "--config", "chan-server.toml"]));
    second.err.wait("the warning", |line| line.contains("another server uses this state directory"));
    second.signal("TERM");
    assert_eq!(second.code(), Some(0));
    assert!(done(&server, &["status"]).contains("serving"));
}

#[test]
fn log_file_is_opened_anew_at_sigusr1() {
    let folder = Folder::new();
    folder.write("c.toml", &format!("listen = [\"127.0.0.1:0\"]\n{}", names()));
    let mut command = Command::new(program("chan-server"));
    command.args([
        "serve",
        "--config",
        "c.toml",
        "--log-file",
        "log",
        "--log-format",
        "text",
        "--state",
        "state",
    ]);
    command.current_dir(folder.path()).env("HOME", folder.path());
    let server = Running::start(command);
    server.out.wait("Listening", |line| line.starts_with("Listening"));
    let log = folder.path().join("log");
    fs::rename(&log, folder.path().join("log.1")).unwrap();
    server.signal("USR1");
    // Each reload writes a line, and one behind the signal opens the file.
    let reloads = (0..100).take_while(|_| !log.exists());
    reloads.for_each(|_| {
        let mut reload = Command::new(program("chan-server"));
        assert_eq!(run(reload.args(["reload", "--state", "state"]).current_dir(folder.path())).0, Some(0));
    });
    let old = fs::read_to_string(folder.path().join("log.1")).unwrap();
    assert!(old.contains(" listening address=127.0.0.1:"), "{old}");
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
    let new = fs::read_to_string(&log).unwrap();
    assert!(new.contains(" reloaded ") && new.contains(" stopped\n"), "{new}");
}

#[test]
fn reloads_under_load_disturb_nobody_else() {
    let report = campaign(Options { reloads: 30, sessions: 10, tls: false });
    assert_eq!((report.reloads, report.broken, report.keys), (30, 3, 1), "{report}");
    assert_eq!((report.moves, report.not_closed), (15, 0), "{report}");
    assert_eq!((report.failed, report.revoked, report.ended, report.newcomers), (0, 3, 3, 3), "{report}");
    assert!(report.calls > 100, "{report}");
}

#[test]
fn certificate_files_are_replaced_under_load() {
    let report = campaign(Options { reloads: 30, sessions: 10, tls: true });
    // A certificate without its key is refused, three times.
    assert_eq!((report.reloads, report.broken, report.keys), (30, 6, 6), "{report}");
    assert_eq!((report.failed, report.revoked, report.ended, report.newcomers), (0, 3, 3, 3), "{report}");
    assert!(report.calls > 100, "{report}");
}

/// Starts a server with this listening socket, as systemd does for a unit with a socket.
fn start_with_socket(folder: &Folder, socket: &TcpListener) -> Running {
    // The shell has the number of the process that it becomes.
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut server = Command::new("sh");
    server.args(["-c", script]).arg(program("chan-server")).args(["serve", "--config"]);
    server.arg(folder.path().join("chan-server.toml")).arg("--state").arg(folder.path().join("state"));
    Running::start_with_input(server, OwnedFd::from(socket.try_clone().unwrap()).into())
}

#[test]
fn restarts_with_a_given_socket_refuse_nobody() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let folder = Folder::new();
    folder.write("key", &client_key().to_file_contents());
    folder.write("chan-server.toml", &format!("listen = [\"{address}\"]\n{}", names()));
    let state = StateDir::at(folder.path().join("state"));
    let url = || {
        let identity = Identity::in_state(&state).unwrap();
        chan_server::identity::url("joe", "127.0.0.1", address.port(), "names", &identity)
    };
    for restart in 0..100 {
        // No server runs at this moment, and the socket takes connections.
        let mut client = Command::new(program("chan-client"));
        client.args(["ping", &url(), "--key-file"]).arg(folder.path().join("key"));
        let client = Running::start(client);
        let server = start_with_socket(&folder, &socket);
        assert_eq!(client.code(), Some(0), "restart {restart}");
        if restart == 0 {
            server.out.wait("the address", |line| line.contains(&address.to_string()));
        }
        server.signal("TERM");
        assert_eq!(server.code(), Some(0), "restart {restart}");
    }
}

#[test]
fn unit_is_hardened() {
    if !available("systemd-analyze") {
        return;
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/chan-server.service");
    let mut analyze = Command::new("systemd-analyze");
    let (code, out, err) =
        run(analyze.args(["security", "--offline=true", "--threshold=15", "--no-pager", unit]));
    assert_eq!(code, Some(0), "exposure above 1.5: {out}{err}");
}

/// What the server says to a request.
fn get(server: &Server, address: &str, path: &str) -> String {
    http(address, path).unwrap_or_else(|error| panic!("{error}: {:?}", server.log.all()))
}

fn http(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// An address that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn metrics_count_what_happens() {
    let address = free_address();
    let server = start(&format!("{}{}[metrics]\nlisten = \"{address}\"\n", echo(), names()));
    let _client = stays(&server);
    events(&server, "session_started", 1);
    assert_eq!(run(server.client("call", "echo").arg("1")).0, Some(0));
    let wrong = server.folder.write("wrong", "no horse and no battery");
    assert_eq!(run(server.client_at("call", server.url("echo"), &wrong).arg("1")).0, Some(5));
    events(&server, "session_ended", 1);
    events(&server, "login_failed", 1);
    let text = get(&server, &address, "/metrics");
    for line in [
        "HTTP/1.1 200 OK\r",
        "chan_sessions{service=\"names\"} 1",
        "chan_sessions{service=\"echo\"} 0",
        "chan_logins_total{outcome=\"ok\"} 2",
        "chan_logins_total{outcome=\"refused\"} 1",
        "chan_sessions_started_total{service=\"echo\"} 1",
        "chan_sessions_ended_total{service=\"echo\",reason=\"normal\"} 1",
        "chan_gate_under_load 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line.trim_end_matches('\r')), "{line} in {text}");
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md")).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut count = 0;
    for name in names {
        assert!(page.contains(&format!("`{name}")), "{name} is not documented");
        count += 1;
    }
    assert!(count >= 15, "{count}");
    assert!(get(&server, &address, "/livez").ends_with("\r\n\r\nok\n"));
    assert!(get(&server, &address, "/readyz").starts_with("HTTP/1.1 200 "));
    server.signal("TERM");
    events(&server, "draining", 1);
    assert!(get(&server, &address, "/readyz").starts_with("HTTP/1.1 503 "));
}

#[test]
fn silent_connections_keep_no_health_check_out() {
    let address = free_address();
    let server = start(&format!("{}[metrics]\nlisten = \"{address}\"\n", echo()));
    let began = Instant::now();
    let mut silent: Vec<_> = (0..64).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert!(get(&server, &address, "/livez").ends_with("\r\n\r\nok\n"));
    // Sixteen at a time, each of which may be silent for 5 s, would take 20 s.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "the oldest gives its place");
}

#[test]
fn prometheus_scrapes_the_metrics() {
    if !available("prometheus") {
        return;
    }
    let address = free_address();
    let server = start(&format!("{}[metrics]\nlisten = \"{address}\"\n", echo()));
    assert_eq!(run(server.client("call", "echo").arg("1")).0, Some(0));
    events(&server, "session_ended", 1);
    // Prometheus stores one scrape before it begins the next.
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = between.local_addr().unwrap();
    let configuration = server.folder.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: chan, static_configs: [{{targets: [\"{target}\"]}}]}}]\n"
        ),
    );
    let mut prometheus = Command::new("prometheus");
    prometheus.arg("--config.file").arg(configuration).args(["--web.listen-address", "127.0.0.1:0"]);
    prometheus.arg("--storage.tsdb.path").arg(server.folder.path().join("prometheus"));
    let prometheus = Running::start(prometheus);
    let line = prometheus.err.wait("its address", |line| line.contains("\"Listening on\""));
    let api = line.split("address=").nth(1).unwrap().trim();
    for _ in 0..2 {
        let (scrape, _) = between.accept().unwrap();
        let mut request = BufReader::new(&scrape);
        let mut line = String::new();
        while request.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        (&scrape).write_all(get(&server, &address, "/metrics").as_bytes()).unwrap();
    }
    let found = |query: &str| http(api, &format!("/api/v1/query?query={query}")).unwrap();
    assert!(found("up").contains(",\"1\"]}"), "{}", found("up"));
    let started = found("chan_sessions_started_total");
    assert!(started.contains("\"service\":\"echo\"},") && started.contains(",\"1\"]}"), "{started}");
}

#[test]
fn sslyze_finds_only_the_certificate() {
    if !available("sslyze") {
        return;
    }
    // The scanner makes hundreds of connections that do not log in.
    let server = start(&format!("{}[gate]\nexempt = [\"127.0.0.1\"]\n", echo()));
    let mut sslyze = Command::new("sslyze");
    sslyze.args(["--mozilla_config", "modern", &format!("127.0.0.1:{}", port_of(server.url("echo")))]);
    let (_, report, complaint) = run(&mut sslyze);
    let (_, compliance) = report.split_once("FAILED - Not compliant.").expect(&complaint);
    let findings = compliance.lines().filter_map(|line| line.trim().strip_prefix("* ")?.split(':').next());
    // The certificate vouches for itself, for as long as its key is pinned.
    let findings: Vec<_> = findings.collect();
    assert_eq!(findings, ["certificate_path_validation", "maximum_certificate_lifespan"], "{report}");
}
