//! The program on a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use tokio::task::spawn_blocking;

use crate::server::{PASSWORD, Server};

/// A program, and the person in front of its terminal.
struct Session {
    program: Child,
    keyboard: File,
    terminal: File,
    seen: String,
}

impl Session {
    fn start(arguments: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal = File::from(open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        let end = || terminal.try_clone().unwrap();
        // A program that waits for ever fails its test, and does not keep the others from running.
        let program = Command::new("setsid")
            .args(["--ctty", "--wait", "timeout", "--foreground", "60", env!("CARGO_BIN_EXE_chan-client")])
            .args(arguments)
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { program, keyboard: keyboard.into(), terminal, seen: String::new() }
    }

    /// Reads until this is seen, and forgets all that came before its end.
    fn see(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let mut ready = [PollFd::new(&self.keyboard, PollFlags::IN)];
            let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_ne!(poll(&mut ready, Some(&patience)).unwrap(), 0, "no {text:?} in {:?}", self.seen);
            let mut buffer = [0; 1024];
            let len = self.keyboard.read(&mut buffer).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
    }

    /// Reads until the line editor has drawn its prompt; nothing of that is left to be taken for what is typed next.
    fn see_prompt(&mut self) {
        self.see("> ");
        self.see("\x1b[?2026l");
    }

    fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types as a person does, each key after the one before was shown: of several at once, the line editor takes only
    /// the first until there are more (rustyline issue 976).
    fn type_seen(&mut self, keys: &str) {
        for key in keys.split("").filter(|key| !key.is_empty()) {
            self.type_keys(key);
            self.see(key);
        }
    }

    /// The exit code, once the program has ended and left the terminal as it was.
    fn ended(mut self) -> i32 {
        let code = self.program.wait().unwrap().code().unwrap();
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG), "{modes:?}");
        code
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_not_shown() {
    let server = Server::start().await;
    let url = server.url();
    let work = move || {
        let mut session = Session::start(&["call", &url, r#"{"Double":21}"#]);
        session.see(&format!("Password for s at localhost:{}: ", server.port));
        session.type_keys(&format!("{PASSWORD}\n"));
        let shown = session.see("\"42\"");
        assert!(!shown.contains("horse"), "{shown}");
        assert_eq!(session.ended(), 0);
    };
    spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_no_password_gets_the_terminal_back() {
    let work = || {
        for key in ["\x03", "\x04", "half\x03"] {
            let mut session = Session::start(&["ping", "chan://localhost:1/s?system"]);
            session.see("Password for ");
            session.type_keys(key);
            session.see("no password was given");
            assert_eq!(session.ended(), 2);
        }
    };
    spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_held_and_left() {
    let server = Server::start().await;
    let url = server.url();
    let work = move || {
        let mut session = Session::start(&["repl", &url]);
        session.see("Password for ");
        session.type_keys(&format!("{PASSWORD}\n"));
        session.see_prompt();
        session.type_seen(r#"{"Double":2}"#);
        session.type_keys("\r");
        session.see("\"4\"");
        session.see_prompt();
        session.type_seen("\"Hang\"");
        session.type_keys("\r");
        session.see_prompt();
        session.type_keys("\x03");
        session.see("cancelled (perhaps executed");
        session.see_prompt();
        session.type_keys("\x04");
        assert_eq!(session.ended(), 0);
    };
    spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_gives_the_terminal_back() {
    let server = Server::start().await;
    let url = server.url();
    let work = move || {
        let mut session = Session::start(&["repl", &url, "--args", "\"push\""]);
        session.see("Password for ");
        session.type_keys(&format!("{PASSWORD}\n"));
        session.see("\"three\"");
        session.see("chan-client: the service ended: normal");
        assert_eq!(session.ended(), 7);
    };
    spawn_blocking(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_is_explained() {
    let server = Server::start().await;
    let url = server.url();
    let work = move || {
        let mut session = Session::start(&["call", &url, "\"Hang\"", "--timeout", "1500ms"]);
        session.see("Password for ");
        session.type_keys(&format!("{PASSWORD}\n"));
        session.see("waiting for the answer…");
        session.see("no answer came in time");
        assert_eq!(session.ended(), 8);
    };
    spawn_blocking(work).await.unwrap();
}
