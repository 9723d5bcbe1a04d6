//! The server on machines that differ: signals, secrets of a platform, no IPv6, no clock, streams that are gone.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use chan_tests::{Folder, PASSWORD, Running, Server, available, program, run};

const ECHO: &str =
    "[[service]]\nname = \"echo\"\npassword_file = \"password\"\nmfa = [\"echo\", \"start\"]\n";
const NAMES: &str =
    "[[service]]\nname = \"names\"\npassword_file = \"password\"\nmfa = [\"name_server\", \"start_me_up\"]\n";

/// A server's command with the folder as its home.
fn command(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("chan-server"));
    command.args(arguments).current_dir(folder.path()).env("HOME", folder.path()).stdin(Stdio::null());
    for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// A folder with a configuration on a free port.
fn configured(services: &str) -> Folder {
    let folder = Folder::new();
    folder.write("password", &format!("{PASSWORD}\n"));
    folder.write("c.toml", &format!("listen = [\"127.0.0.1:0\"]\n{services}"));
    folder
}

fn serve(folder: &Folder) -> Command {
    command(folder, &["serve", "--config", "c.toml"])
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn logged(server: &Running, event: &str) -> String {
    server.err.wait(event, |line| line.contains(&format!("\"event\":\"{event}\"")))
}

#[test]
fn signal_ends_starting_server() {
    // Some seconds of work, since each password takes a tenth of one.
    let services: String = (0..100).map(|n| ECHO.replace("\"echo\"\n", &format!("\"echo{n}\"\n"))).collect();
    for signal in ["TERM", "INT"] {
        let folder = configured(&services);
        let server = Running::start(serve(&folder));
        assert!(logged(&server, "starting").contains("\"passwords\":100"));
        server.signal(signal);
        logged(&server, "stopped");
        let (out, err) = (server.out.clone(), server.err.clone());
        assert_eq!(server.code(), Some(0), "{signal}");
        assert_eq!(out.all(), [""; 0]);
        assert!(!err.all().iter().any(|line| line.contains("listening")), "{:?}", err.all());
    }
}

#[test]
fn third_signal_cuts_sessions_off() {
    let mut server = Server::start(NAMES);
    let client = Running::start(server.client("receive", "names"));
    server.event("session_started");
    // It answers nothing, so the end of its session is waited for.
    client.signal("STOP");
    server.signal("TERM");
    server.event("draining");
    // Two of a kind might be seen as one.
    server.signal("INT");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    for event in ["session_ended", "stopped"] {
        server.event(event);
    }
}

#[test]
fn serves_although_nobody_reads_its_output() {
    let folder = configured(ECHO);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for output in [Stdio::from(writer), Stdio::from(full)] {
        let server = Running::start_with_output(serve(&folder), output);
        let warning = logged(&server, "warning");
        assert!(warning.contains("its URLs were not printed"), "{warning}");
        server.signal("TERM");
        assert_eq!(server.code(), Some(0));
    }
}

#[test]
fn full_standard_error_changes_no_exit_code() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let folder = Folder::new();
    let status = command(&folder, &["check", "--config", "nothing"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    // A password that nobody saw is none.
    let output = command(&folder, &["passwd", "echo", "--generate"]).stderr(full()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn first_start_reports_port_in_use() {
    // Where this fails another program has the port, which does as well.
    let _taken = TcpListener::bind("127.0.0.1:1234");
    let folder = Folder::new();
    let server = Running::start(command(&folder, &[]));
    let line = server.out.wait("where it listens", |line| line.starts_with("Listening on "));
    assert!(line.ends_with(" (port 1234 is taken), reachable from this machine alone."), "{line}");
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn a_configuration_out_of_sight_starts_no_demonstration() {
    let folder = Folder::new();
    let place = folder.path().join(".config/chan-server");
    fs::create_dir_all(&place).unwrap();
    symlink("/nowhere/chan-server.toml", place.join("chan-server.toml")).unwrap();
    let (code, printed, complaint) = run(&mut command(&folder, &[]));
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert!(
        complaint.contains("is a link to /nowhere/chan-server.toml, which cannot be read: "),
        "{complaint}"
    );
}

#[test]
fn accepts_platform_secrets_as_mounted() {
    let folder = configured(&ECHO.replace("\"password\"", "\"credentials/password\""));
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::rename(folder.path().join("password"), credentials.join("password")).unwrap();
    let check = |mode, handed_over: &str| {
        set_mode(&credentials.join("password"), mode);
        let mut check = command(&folder, &["check", "--config", "c.toml"]);
        run(check.env("CREDENTIALS_DIRECTORY", folder.path().join(handed_over)))
    };
    for mode in [0o400, 0o440, 0o444] {
        assert_eq!(check(mode, "credentials").0, Some(0), "{mode:o}");
    }
    let (code, _, complaint) = check(0o444, "elsewhere");
    assert_eq!(code, Some(2));
    assert!(complaint.contains("may be read by others (mode 0444); run: chmod 600 "), "{complaint}");
    assert_eq!(check(0o446, "credentials").0, Some(2));
}

#[test]
fn serves_the_example_without_ipv6() {
    if !available("unshare") || !available("ip") {
        return;
    }
    let folder = configured(ECHO);
    folder.write("c.toml", &format!("listen = [\"127.0.0.1:0\", \"[::1]:0\"]\n{ECHO}"));
    let script = "ip link set lo up && { ip address del ::1/128 dev lo 2>/dev/null; exec \"$0\" serve --config c.toml; }";
    let mut without = Command::new("unshare");
    without.args(["--net", "--map-root-user", "sh", "-c", script]).arg(program("chan-server"));
    without.current_dir(folder.path()).env("HOME", folder.path()).env_remove("XDG_STATE_HOME");
    let server = Running::start(without);
    let line = server.out.wait("where it listens", |line| line.starts_with("Listening on "));
    assert!(!line.contains("::1"), "{line}");
    assert!(logged(&server, "warning").contains("cannot listen on [::1]:0"));
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn a_sandbox_that_forbids_limits_stops_nothing() {
    if !available("strace") {
        return;
    }
    let folder = configured(ECHO);
    let trace = folder.path().join("trace");
    for (name, arguments) in
        [("chan-client", ["--version"].as_slice()), ("chan-server", &["check", "--config", "c.toml"])]
    {
        let mut sandboxed = Command::new("strace");
        sandboxed.args(["-f", "-e", "inject=prlimit64,setrlimit:error=EPERM", "-o"]).arg(&trace);
        sandboxed.arg(program(name)).args(arguments).current_dir(folder.path()).env("HOME", folder.path());
        assert_eq!(run(&mut sandboxed).0, Some(0), "{name}");
        assert!(fs::read_to_string(&trace).unwrap().contains("INJECTED"), "{name}");
    }
}

#[test]
fn says_that_it_needs_more_threads() {
    if !available("strace") {
        return;
    }
    let folder = configured(ECHO);
    let password = folder.path().join("password");
    for (name, arguments) in [
        ("chan-client", ["ping", "chan://127.0.0.1:1/s?tofu", "--password-file", password.to_str().unwrap()]),
        ("chan-server", ["serve", "--config", "c.toml", "-v"]),
    ] {
        let arguments = if name == "chan-server" { &arguments[..3] } else { &arguments };
        // None at all, and none but the one for signals.
        for which in ["1+", "2+"] {
            let mut refused = Command::new("strace");
            refused.args(["-o", "trace", "-e", &format!("inject=clone,clone3:error=EAGAIN:when={which}")]);
            refused.arg(program(name)).args(arguments).current_dir(folder.path()).env("HOME", folder.path());
            let (code, _, complaint) = run(&mut refused);
            assert_eq!(code, Some(1), "{name}: {complaint}");
            assert!(complaint.contains("allow it at least 4"), "{name}: {complaint}");
        }
    }
}

/// The system gives the threads of the runtime, and no more.
#[test]
fn thread_refused_after_start_is_an_error() {
    if !available("strace") {
        return;
    }
    let server = Server::start(ECHO);
    let (url, password) = (server.url("echo"), server.folder.path().join("password"));
    let cores = std::thread::available_parallelism().unwrap().get();
    // One for signals, those that find out how many there are, and the runtime's.
    let given = 1 + (cores + 1) + cores;
    for command in ["ping", "pipe", "repl"] {
        let inject = format!("inject=clone,clone3:error=EAGAIN:when={}+", given + 1);
        let mut refused = Command::new("strace");
        refused.args(["-f", "-o", "/dev/null", "-e", &inject]).arg(program("chan-client"));
        refused.args([command, url, "--timeout", "20s", "--password-file"]).arg(&password);
        refused.env("HOME", server.folder.path()).stdin(Stdio::null());
        let (code, _, complaint) = run(&mut refused);
        assert_eq!(code, Some(1), "{command}: {complaint}");
        assert!(complaint.contains("gives this program no more threads"), "{command}: {complaint}");
    }
}

#[test]
fn serves_before_the_clock_is_set() {
    if !available("faketime") {
        return;
    }
    let folder = configured(ECHO);
    // The program `faketime` would stay between, and outlive the test with the server.
    let (_, library, _) = run(Command::new("faketime").args(["1970-01-05", "printenv", "LD_PRELOAD"]));
    assert!(library.contains("libfaketime"), "{library}");
    let mut early = serve(&folder);
    early.env("LD_PRELOAD", library.trim()).env("FAKETIME", "@1970-01-05 00:00:00");
    let server = Running::start(early);
    server.out.wait("a URL", |line| line.starts_with("echo: chan://"));
    assert!(logged(&server, "listening").contains("\"time\":\"1970-01-05T"));
}

#[test]
fn the_same_cause_has_the_same_exit_code() {
    let folder = configured(ECHO);
    let code = |arguments: &[&str]| {
        let Output { status, .. } = command(&folder, arguments).output().unwrap();
        status.code()
    };
    assert_eq!(code(&["--state", "s", "identity", "--config", "c.toml"]), Some(0));
    assert_eq!(code(&["identity", "--config", "c.toml", "--state", "s"]), Some(0));
    // A file that was named and cannot be used.
    assert_eq!(code(&["passwd", "echo", "--generate", "--password-file", "password"]), Some(2));
    assert_eq!(code(&["passwd", "echo", "--password-file", "nothing"]), Some(2));
    assert_eq!(code(&["passwd", "echo", "--password-file", "."]), Some(2));
    let mut homeless = command(&folder, &["serve", "--config", "c.toml"]);
    assert_eq!(run(homeless.env_remove("HOME")).0, Some(2));
}
