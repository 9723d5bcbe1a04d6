//! The program as it is run.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A directory that is the home of a user of its own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path(".local/state/chan-server")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chan-server"));
        command.args(arguments).current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a command printed that succeeded.
fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command complained of that failed with this code.
fn complained(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    text(&output.stderr)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A program that serves, and is killed with the test.
struct Serving(Child, Vec<String>);

impl Serving {
    /// Starts it, and reads its output to the first line that contains `last`.
    fn start(mut command: Command, last: &str) -> Self {
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut serving = Self(child, Vec::new());
        for line in BufReader::new(serving.0.stdout.take().unwrap()).lines() {
            serving.1.push(line.unwrap());
            if serving.1.last().unwrap().contains(last) {
                return serving;
            }
        }
        panic!("no {last} in {:?}", serving.1);
    }

    /// Asks it to end, and gives its exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CONFIG: &str = "listen = ['127.0.0.1:0']\n[[service]]\nname = 'echo'\nmfa = ['echo', 'start']\n";

#[test]
fn check_names_file_line_and_key() {
    let home = Home::new();
    home.write("c.toml", &format!("{CONFIG}pasword = 'x'\n"));
    let output = home.run(&["check", "--config", "c.toml"]);
    let complaint = complained(&output, 2);
    assert!(complaint.contains("c.toml:2: [[service]] has no password"), "{complaint}");
    assert!(
        complaint.contains("c.toml:5: unknown key \"pasword\" in [[service]]; did you mean"),
        "{complaint}"
    );
}

#[test]
fn file_without_option_is_suggested_as_config() {
    let home = Home::new();
    for command in ["check", "serve"] {
        let output = home.run(&[command, "c.toml"]);
        let complaint = complained(&output, 2);
        assert!(complaint.contains("did you mean `--config c.toml`?"), "{complaint}");
    }
    let output = home.run(&["drain", "c.toml"]);
    let complaint = complained(&output, 2);
    assert!(!complaint.contains("did you mean"), "{complaint}");
}

/// 192.0.2.1 is an address for documentation, which no machine has.
#[test]
fn check_warns_of_sockets_and_addresses_not_there() {
    let home = Home::new();
    let folder = home.path("").display().to_string();
    home.write("file", "");
    let folder = folder.trim_end_matches('/');
    let key = "key = 'ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'";
    let mut config = "listen = ['127.0.0.1:1', '192.0.2.1:1']\n".to_owned();
    for (name, target) in [("a", "file"), ("b", "."), ("c", "later.sock")] {
        config += &format!("[[service]]\nname = '{name}'\nmfa = ['unix', 'connect', '{folder}/{target}']\n");
        config += &format!("[[service.client]]\nname = 'joe'\n{key}\n");
    }
    home.write("c.toml", &config);
    let output = home.run(&["check", "--config", "c.toml"]);
    let text = printed(&output);
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("warning: ")).collect();
    let [address, file, directory] = warnings[..] else { panic!("{text}") };
    assert!(address.contains("c.toml:1: ") && address.contains("192.0.2.1"), "{address}");
    assert!(file.contains("c.toml:4: ") && file.contains("file is an ordinary file"), "{file}");
    assert!(directory.contains("c.toml:10: ") && directory.contains("is a directory"), "{directory}");
}

#[test]
fn passwd_makes_verifier_from_standard_input() {
    let home = Home::new();
    let output = home.run_with_input(&["passwd", "echo"], "correct horse battery\n");
    let config = format!("{CONFIG}verifier = '{}'\n", printed(&output).trim_end());
    home.write("c.toml", &config);
    let checked = home.run(&["check", "--config", "c.toml"]);
    assert_eq!(printed(&checked), "echo: echo:start for shared password\nc.toml: no mistakes\n");
}

#[test]
fn refuses_short_password_unless_weak() {
    let home = Home::new();
    let complaint = home.run_with_input(&["passwd", "echo"], "hunter2\n");
    assert!(complained(&complaint, 2).contains("fewer than 12 characters"));
    assert!(
        printed(&home.run_with_input(&["passwd", "echo", "--weak"], "hunter2\n"))
            .starts_with("$chan$argon2id$")
    );
}

#[test]
fn each_name_has_one_salt_per_server() {
    let home = Home::new();
    let salt = |arguments: &[&str]| {
        let output = home.run_with_input(arguments, "correct horse battery\n");
        printed(&output).split('$').nth(5).unwrap().to_owned()
    };
    // Without a server there is nothing that the salt could come from twice.
    assert_ne!(salt(&["passwd", "echo"]), salt(&["passwd", "echo"]));
    home.write("c.toml", &format!("{CONFIG}password = 'correct horse battery'\n"));
    let serving = Serving::start(home.command(&["serve", "--config", "c.toml"]), "echo: chan://");
    assert_eq!(serving.end("-TERM"), Some(0));
    assert_eq!(salt(&["passwd", "echo"]), salt(&["passwd", "echo"]));
    assert_ne!(salt(&["passwd", "echo"]), salt(&["passwd", "echo", "joe"]));
}

#[test]
fn generated_password_goes_into_private_file() {
    let home = Home::new();
    let arguments = ["passwd", "echo", "--generate", "--password-file", "echo.password"];
    let output = home.run(&arguments);
    assert_eq!(
        printed(&output),
        "made echo.password; in the configuration: password_file = \"echo.password\"\n"
    );
    let password = fs::read_to_string(home.path("echo.password")).unwrap();
    assert_eq!((password.len(), mode(&home.path("echo.password"))), (23, 0o600));
    assert!(
        complained(&home.run(&arguments), 2)
            .contains("echo.password: it exists already and is not overwritten")
    );
    assert_eq!(fs::read_to_string(home.path("echo.password")).unwrap(), password);
    let both = ["passwd", "echo", "--password-file", "echo.password", "--verifier-file", "echo.verifier"];
    printed(&home.run(&both));
    assert_eq!(mode(&home.path("echo.verifier")), 0o600);
    home.write("c.toml", &format!("{CONFIG}verifier_file = 'echo.verifier'\n"));
    printed(&home.run(&["check", "--config", "c.toml"]));
}

#[test]
fn generated_password_without_file_is_printed() {
    let home = Home::new();
    let output = home.run(&["passwd", "echo", "--generate"]);
    assert!(printed(&output).starts_with("$chan$argon2id$"));
    let password = text(&output.stderr).strip_prefix("password: ").unwrap();
    assert_eq!(password.len(), 23);
    assert!(!text(&output.stdout).contains(password.trim_end()));
}

#[test]
fn identity_and_serve_print_same_pin() {
    let home = Home::new();
    let config = format!("{CONFIG}password = 'correct horse battery'\n").replace(":0", ":1234");
    home.write("c.toml", &config);
    let output = home.run(&["identity", "--config", "c.toml", "--host", "example.net"]);
    let lines: Vec<_> = printed(&output).lines().collect();
    assert_eq!(lines[1], format!("chan://example.net:1234/echo?pin={}", lines[0]));
    assert_eq!((mode(&home.state()), mode(&home.state().join("key.pem"))), (0o700, 0o600));
    home.write("c.toml", &config.replace(":1234", ":0"));
    let serving = Serving::start(home.command(&["serve", "--config", "c.toml"]), "echo: chan://");
    assert!(serving.1[0].ends_with(", reachable from this machine alone."), "{:?}", serving.1);
    assert!(serving.1[1].ends_with(&format!("/echo?pin={}", lines[0])), "{:?}", serving.1);
    let wrong = home.run(&["identity", "--config", "c.toml", "--host", "example.net:1"]);
    assert!(complained(&wrong, 2).contains("--host: \"example.net:1\" is not a host"));
}

#[test]
fn both_signals_end_it_with_0() {
    let home = Home::new();
    home.write("c.toml", &format!("{CONFIG}password = 'correct horse battery'\n"));
    for signal in ["-INT", "-TERM"] {
        let serving = Serving::start(home.command(&["serve", "--config", "c.toml"]), "echo: chan://");
        assert_eq!(serving.end(signal), Some(0), "{signal}");
    }
}

#[test]
fn first_start_serves_loopback_with_new_password() {
    let home = Home::new();
    let serving = Serving::start(home.command(&[]), "'\"hello\"'");
    let lines = &serving.1;
    assert!(
        lines[1].starts_with("Listening on 127.0.0.1:")
            && lines[1].ends_with("reachable from this machine alone.")
    );
    let password = home.state().join("password");
    assert_eq!((mode(&password), fs::read(&password).unwrap().len()), (0o600, 23));
    let commands: Vec<_> = lines.iter().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        assert!(
            command.contains(&format!(" --password-file {} 'chan://127.0.0.1:", password.display())),
            "{command}"
        );
        assert!(command.contains("?pin=sha256:"), "{command}");
    }
    assert_eq!(serving.end("-TERM"), Some(0));
    let before = fs::read(&password).unwrap();
    drop(Serving::start(home.command(&[]), "'\"hello\"'"));
    assert_eq!(fs::read(&password).unwrap(), before);
}

#[test]
fn refuses_open_state_directory_with_fix() {
    let home = Home::new();
    fs::create_dir(home.path("state")).unwrap();
    fs::set_permissions(home.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = home.run(&["--state", "state"]);
    assert!(complained(&output, 2).contains("run: chmod 700 state"), "{}", text(&output.stderr));
}

#[test]
fn missing_configuration_names_searched_places() {
    let home = Home::new();
    let output = home.run(&["serve"]);
    let own = home.path(".config/chan-server/chan-server.toml");
    let complaint = complained(&output, 2);
    assert!(
        complaint.contains(&format!("no configuration in {} or /etc/chan-server/", own.display())),
        "{complaint}"
    );
}

#[test]
fn makes_manual_pages_and_completions() {
    let home = Home::new();
    printed(&home.run(&["man", "."]));
    for page in ["", "-serve", "-check", "-passwd", "-identity"] {
        assert!(home.path(&format!("chan-server{page}.1")).exists(), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(printed(&home.run(&["completions", shell])).contains("chan-server"), "{shell}");
    }
}
