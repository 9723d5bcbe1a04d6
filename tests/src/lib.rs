//! Starts the real programs for tests: a server with a configuration in a folder of its own, clients against it.
#![allow(clippy::missing_panics_doc, reason = "what fails here fails a test")]
#![allow(clippy::print_stderr, reason = "what is skipped and what went wrong is for people")]

pub mod differential;
pub mod forwards;
pub mod provides;
pub mod reloads;
pub mod resume;
pub mod slow_readers;
pub mod soak;
pub mod strangers;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

mod cuttable;
mod delayed;
mod embedded;
mod proxy;
#[cfg(target_os = "linux")]
mod terminal;

pub use embedded::{Embedded, client_key, login};
pub use proxy::{Proxy, nobody, port_of};
#[cfg(target_os = "linux")]
pub use terminal::Terminal;

/// How long a test waits for something that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The password of every service that the harness configures.
pub const PASSWORD: &str = "correct horse battery staple";

/// A name server and an echo, in the form of a configuration.
pub const NAMES_AND_ECHO: &str = r#"
[[service]]
name = "names"
password_file = "password"
mfa = ["name_server", "start_me_up"]
[[service]]
name = "echo"
password_file = "password"
mfa = ["echo", "start"]
"#;

/// One of the workspace's programs, built along with the tests.
///
/// # Panics
/// If it was not built.
pub fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a path");
    // Tests are one folder further down than programs.
    let folder = tests.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `cargo test --workspace`, which builds it", path.display());
    path
}

/// Whether a test that needs `program` can run. If not it says so, or fails where nothing may be skipped.
///
/// # Panics
/// Where `CHAN_TEST_SKIP=forbid` is set and the program is missing.
pub fn available(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CHAN_TEST_SKIP").is_none(), "{program} is missing, and nothing may be skipped");
    eprintln!("skipped: {program} is not installed");
    false
}

/// A folder that goes with the test.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty one that nobody else may look into.
    ///
    /// # Panics
    /// If it cannot be made.
    #[expect(clippy::new_without_default, reason = "it makes something")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chan-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("its mode");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only its owner may read.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file in the temporary folder");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing is lost if it stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Lines that a program prints, as they come.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<Printed>, Condvar)>);

/// The lines so far, and whether there will be more.
type Printed = (Vec<String>, bool);

impl Lines {
    /// Collects what comes from a pipe, in a thread.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collected = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                collected.push(line);
            }
            collected.change(|(_, over)| *over = true);
        });
        lines
    }

    pub(crate) fn push(&self, line: String) {
        self.change(|(lines, _)| lines.push(line));
    }

    fn change(&self, f: impl FnOnce(&mut Printed)) {
        f(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// Waits for a line that `wanted` says yes to.
    ///
    /// # Panics
    /// If none comes in time, with all that came.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |lines: &[String]| lines.iter().find(|line| wanted(line)).cloned();
        let (guard, _) = self
            .0
            .1
            .wait_timeout_while(guard, PATIENCE, |(lines, over)| found(lines).is_none() && !*over)
            .unwrap_or_else(PoisonError::into_inner);
        found(&guard.0).unwrap_or_else(|| panic!("no line with {what} in:\n{}", guard.0.join("\n")))
    }

    /// Waits until the lines are as wanted.
    ///
    /// # Panics
    /// If they are not in time, with all that came.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = self
            .0
            .1
            .wait_timeout_while(guard, PATIENCE, |(lines, over)| !wanted(lines) && !*over)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(wanted(&guard.0), "no {what} in:\n{}", guard.0.join("\n"));
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// A running `chan-server`.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Holds its configuration (`chan-server.toml`) and state (`state`).
    pub folder: Folder,
    urls: BTreeMap<String, String>,
    /// Its log, one JSON object a line.
    pub log: Lines,
    /// What it prints for people.
    pub out: Lines,
}

impl Server {
    /// Starts one with these services on a free port of this machine. Each `[[service]]` may name the password file
    /// `password`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(services: &str) -> Self {
        Self::start_in(Folder::new(), services)
    }

    /// The same in a folder that holds files which the configuration names.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_in(folder: Folder, services: &str) -> Self {
        folder.write("password", &format!("{PASSWORD}\n"));
        let config = folder.write("chan-server.toml", &format!("listen = [\"127.0.0.1:0\"]\n{services}"));
        let mut child = Command::new(program("chan-server"))
            .args(["serve", "--config"])
            .arg(&config)
            .arg("--state")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let log = Lines::of(child.stderr.take().expect("a pipe"));
        let out = Lines::of(child.stdout.take().expect("a pipe"));
        let mut server = Self { child, folder, urls: BTreeMap::new(), log, out };
        server.out.wait("Listening", |line| line.starts_with("Listening"));
        for _ in services.matches("[[service]]") {
            let known = server.urls.clone();
            let line = server.out.wait("the next URL", |line| {
                line.split_once(": ")
                    .is_some_and(|(name, url)| url.starts_with("chan://") && !known.contains_key(name))
            });
            let (name, url) = line.split_once(": ").expect("it was split before");
            server.urls.insert(name.into(), url.into());
        }
        server
    }

    /// The URL of a service, as it was printed (`SERVICE` or `SERVICE for CLIENT`).
    ///
    /// # Panics
    /// If none was printed.
    pub fn url(&self, name: &str) -> &str {
        self.urls.get(name).unwrap_or_else(|| panic!("no URL of {name} in {:?}", self.urls))
    }

    /// Waits for an event in the log.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn event(&self, event: &str) -> serde_json::Value {
        let line = self.log.wait(event, |line| line.contains(&format!("\"event\":\"{event}\"")));
        serde_json::from_str(&line).expect("the log is JSON")
    }

    /// A client with the service's password.
    pub fn client(&self, command: &str, service: &str) -> Command {
        self.client_at(command, self.url(service), &self.folder.path().join("password"))
    }

    /// A client with any URL and the password in any file, at home in the server's folder.
    pub fn client_at(&self, command: &str, url: &str, password_file: &Path) -> Command {
        let mut client = Command::new(program("chan-client"));
        client.arg(command).arg(url).arg("--password-file").arg(password_file);
        client.env("HOME", self.folder.path()).stdin(Stdio::null());
        client
    }

    /// Sends it a signal, by name.
    ///
    /// # Panics
    /// If that fails.
    pub fn signal(&self, signal: &str) {
        send_signal(&self.child, signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait(&mut self) -> ExitStatus {
        wait_in_time(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that runs along with the test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Its standard input, until it is closed.
    pub stdin: Option<ChildStdin>,
    /// What it prints.
    pub out: Lines,
    /// What it complains about.
    pub err: Lines,
}

impl Running {
    /// Starts a client with pipes at all ends.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(mut client: Command) -> Self {
        client.stdout(Stdio::piped());
        Self::spawn(client)
    }

    /// Returns the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The same, with an output that goes nowhere.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_unread(mut client: Command) -> Self {
        client.stdout(Stdio::null());
        Self::start_on(client)
    }

    /// The same, with the output that the command has.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_on(client: Command) -> Self {
        Self::spawn(client)
    }

    /// The same, with another input.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with_input(mut client: Command, input: Stdio) -> Self {
        client.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::with_pipes(client)
    }

    /// The same, with another output.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with_output(mut client: Command, output: Stdio) -> Self {
        client.stdout(output);
        Self::spawn(client)
    }

    fn spawn(mut client: Command) -> Self {
        client.stdin(Stdio::piped()).stderr(Stdio::piped());
        Self::with_pipes(client)
    }

    fn with_pipes(mut client: Command) -> Self {
        let mut child = client.spawn().expect("the client starts");
        let out = child.stdout.take().map(Lines::of).unwrap_or_default();
        let err = Lines::of(child.stderr.take().expect("a pipe"));
        Self { stdin: child.stdin.take(), child, out, err }
    }

    /// Sends it a signal, by name.
    ///
    /// # Panics
    /// If that fails.
    pub fn signal(&self, signal: &str) {
        send_signal(&self.child, signal);
    }

    /// Sends a signal, by name, to the one program that it has started.
    ///
    /// # Panics
    /// If that fails.
    pub fn signal_child(&self, signal: &str) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let child = fs::read_to_string(children).expect("its children");
        let sent = Command::new("kill").args([&format!("-{signal}"), child.trim()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until it has ended: its exit code. Closes its standard input first.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn code(mut self) -> Option<i32> {
        drop(self.stdin.take());
        wait_in_time(&mut self.child).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a program's end, but kills one that takes too long.
fn wait_in_time(child: &mut Child) -> ExitStatus {
    let (ended, has_ended) = std::sync::mpsc::channel::<()>();
    let id = child.id().to_string();
    let watchdog = std::thread::spawn(move || {
        let late = has_ended.recv_timeout(PATIENCE).is_err();
        if late {
            // It may have ended this moment.
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
        late
    });
    let status = child.wait().expect("a child can be waited for");
    let _ = ended.send(());
    assert!(!watchdog.join().expect("no panic"), "a program did not end in time");
    status
}

/// Runs a client to its end: its exit code, and what it printed and complained about.
///
/// # Panics
/// If it does not start.
pub fn run(client: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = client.output().expect("the client starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn send_signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    // A stop takes effect when the last of its threads has stopped, and only then is it silent.
    while signal == "STOP" && !is_stopped(child.id()) {
        std::thread::yield_now();
    }
}

fn is_stopped(program: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{program}/task")).expect("it runs");
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}
