//! A question on the terminal whose answer is not shown.
//!
//! Done here, since what the `rpassword` crate does at Ctrl-C (7.5) ends the program before the terminal shows again
//! what is typed.

use std::io;

use zeroize::Zeroizing;

/// Asks on the terminal, whatever standard input and output are connected to; what is typed is not shown. The answer has
/// its line end; nothing if the user gave none (Ctrl-C, Ctrl-D). Blocks until then, and leaves the terminal as it was.
///
/// # Errors
/// There is no terminal.
pub fn ask(question: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    #[cfg(unix)]
    return unix::ask(question);
    #[cfg(not(unix))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("no terminal to ask on: {question}")));
}

#[cfg(unix)]
mod unix {
    use std::{
        fs::File,
        io::{self, Read, Write},
    };

    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
    use zeroize::Zeroizing;

    /// As long as a line can be that a terminal gives.
    const MAX_LINE_LEN: usize = 4096;

    pub(super) fn ask(question: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut terminal = Hidden::new(File::options().read(true).write(true).open("/dev/tty")?)?;
        write!(terminal.tty, "{question}")?;
        // Room for all that is read, since a buffer that grows leaves copies behind.
        let mut line = Zeroizing::new(vec![0; MAX_LINE_LEN]);
        let len = loop {
            match terminal.tty.read(&mut line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        line.truncate(len);
        if line.last() == Some(&b'\n') {
            return Ok(Some(line));
        }
        writeln!(terminal.tty)?;
        Ok(None)
    }

    /// A terminal that shows nothing of what is typed but the end of the line, until it is dropped.
    struct Hidden {
        tty: File,
        settings: Termios,
    }

    impl Hidden {
        fn new(tty: File) -> io::Result<Self> {
            let settings = tcgetattr(&tty)?;
            let mut hidden = settings.clone();
            hidden.local_modes -= LocalModes::ECHO;
            hidden.local_modes |= LocalModes::ECHONL | LocalModes::ICANON;
            // Ctrl-C ends the line and not the program, which could not set the terminal right any more.
            hidden.local_modes -= LocalModes::ISIG;
            hidden.special_codes[SpecialCodeIndex::VEOL] = settings.special_codes[SpecialCodeIndex::VINTR];
            // What was typed ahead was shown, and is no secret.
            tcsetattr(&tty, OptionalActions::Flush, &hidden)?;
            Ok(Self { tty, settings })
        }
    }

    impl Drop for Hidden {
        fn drop(&mut self) {
            // If the terminal is gone there is nothing to set right.
            let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.settings);
        }
    }
}
