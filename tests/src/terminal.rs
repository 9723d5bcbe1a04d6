//! A program on a terminal of its own.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use crate::PATIENCE;

/// A program, and the person in front of its terminal.
#[derive(Debug)]
pub struct Terminal {
    program: Child,
    keyboard: File,
    terminal: File,
    seen: String,
}

impl Terminal {
    /// Starts a program with all its ends at a new terminal, which is the one that it can ask on.
    ///
    /// # Panics
    /// If that fails.
    pub fn start(program: &Command) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("its other end");
        let name = ptsname(&keyboard, Vec::new()).expect("its name");
        let terminal = open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
        let terminal = File::from(terminal);
        let end = || terminal.try_clone().expect("a descriptor");
        let mut on_terminal = Command::new("setsid");
        on_terminal.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        on_terminal.env("TERM", "xterm");
        on_terminal.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        on_terminal.stdin(end()).stdout(end()).stderr(end());
        let program = on_terminal.spawn().expect("the program starts");
        Self { program, keyboard: keyboard.into(), terminal, seen: String::new() }
    }

    /// Reads until this is seen, and forgets all that came before its end, which is returned.
    ///
    /// # Panics
    /// If it is not seen in time, with what was.
    pub fn see(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let mut ready = [PollFd::new(&self.keyboard, PollFlags::IN)];
            let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
            let some = poll(&mut ready, Some(&patience)).expect("a terminal can be waited for");
            assert_ne!(some, 0, "no {text:?} in {:?}", self.seen);
            let mut buffer = [0; 1024];
            let len = self.keyboard.read(&mut buffer).expect("this test holds the other end open");
            self.seen.push_str(&String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()));
        }
    }

    /// Reads until the line editor has drawn its prompt; nothing of that is left to be taken for what is typed next.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn see_prompt(&mut self) {
        self.see("> ");
        self.see("\x1b[?2026l");
    }

    /// Types, all at once.
    ///
    /// # Panics
    /// If the terminal takes it not.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Sends the program a signal, by name. It has the id of `setsid`, which becomes the program.
    ///
    /// # Panics
    /// If that fails.
    pub fn signal(&self, signal: &str) {
        crate::send_signal(&self.program, signal);
    }

    /// Whether the terminal is as a shell leaves it to programs.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn is_given_back(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its settings").local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Whether the terminal shows what is typed.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn shows_typing(&self) -> bool {
        tcgetattr(&self.terminal).expect("its settings").local_modes.contains(LocalModes::ECHO)
    }

    /// The exit code, once the program has ended and left the terminal as it was.
    ///
    /// # Panics
    /// If it was killed, or has left the terminal otherwise.
    pub fn ended(mut self) -> i32 {
        let status = crate::wait_in_time(&mut self.program);
        assert!(self.is_given_back(), "{:?}", tcgetattr(&self.terminal));
        status.code().expect("it was not killed")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
