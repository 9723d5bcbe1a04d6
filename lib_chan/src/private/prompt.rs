//! A prompt on the terminal that does not show the answer.
//!
//! Implemented here, because the `rpassword` crate (7.5) ends the program at Ctrl-C before the terminal shows input
//! again.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::signals::Settings;

/// The longest line of a terminal.
const MAX_LINE_LEN: usize = 4096;

/// Asks on the terminal, whatever standard input and output are connected to; what is typed is not shown. The answer has
/// its line end; `None` if the user gave none (Ctrl-D). Blocks until then, and leaves the terminal as it was, also where a
/// signal ends a program that called [`signals::handle`](crate::signals::handle).
///
/// # Errors
/// There is no terminal; [`io::ErrorKind::Interrupted`] if the user pressed Ctrl-C.
pub fn ask(question: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut tty = File::options().read(true).write(true).open("/dev/tty")?;
    let _restored = Settings::keep(&tty)?;
    let interrupt = hide(&tty)?;
    write!(tty, "{question}")?;
    // With room for the longest answer the buffer never grows, so it leaves no copies behind.
    let mut line = Zeroizing::new(vec![0; MAX_LINE_LEN]);
    let len = loop {
        match tty.read(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    line.truncate(len);
    if line.last() == Some(&b'\n') {
        return Ok(Some(line));
    }
    writeln!(tty)?;
    match line.last() {
        Some(&key) if key == interrupt => Err(io::ErrorKind::Interrupted.into()),
        _ => Ok(None),
    }
}

/// Hides all input but the end of the line. Returns the key that interrupts, which ends the line.
fn hide(tty: &File) -> io::Result<u8> {
    let mut hidden = tcgetattr(tty)?;
    let interrupt = hidden.special_codes[SpecialCodeIndex::VINTR];
    hidden.local_modes -= LocalModes::ECHO;
    hidden.local_modes |= LocalModes::ECHONL | LocalModes::ICANON;
    // Ctrl-C ends the line and not the program, which could not restore the terminal any more.
    hidden.local_modes -= LocalModes::ISIG;
    hidden.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    // Input typed ahead was shown, so it is no secret.
    tcsetattr(tty, OptionalActions::Flush, &hidden)?;
    Ok(interrupt)
}
