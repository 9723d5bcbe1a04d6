//! A real Erlang that runs programs.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::program::{Ends, Program};
use super::trace::Trace;

/// One Erlang, started once and given many programs.
#[derive(Debug)]
pub struct Erlang {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Erlang {
    /// Starts one; for two ends, with the two nodes that are the ends.
    ///
    /// # Panics
    /// If `escript` cannot be started; look for it first.
    pub fn start(ends: Ends) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("erlang/differential.escript");
        let mut command = Command::new("escript");
        command.arg(script).arg(match ends {
            Ends::One => "one",
            Ends::Two => "two",
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("escript is installed");
        let input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        Self { child, input, output }
    }

    /// Hands over programs, and does not wait for them. Read the answer before handing over more.
    ///
    /// # Errors
    /// Erlang is gone.
    pub fn send<'a>(&mut self, programs: impl IntoIterator<Item = &'a Program>) -> io::Result<()> {
        let mut batch = Vec::new();
        for program in programs {
            let mut bytes = Vec::new();
            program.encode(&mut bytes);
            put(&mut batch, &bytes);
        }
        let mut packet = Vec::new();
        put(&mut packet, &batch);
        self.input.write_all(&packet)
    }

    /// What it saw, program by program.
    ///
    /// # Errors
    /// Erlang is gone, or it says what cannot be read.
    pub fn receive(&mut self) -> io::Result<Vec<Trace>> {
        let mut len = [0; 4];
        self.output.read_exact(&mut len)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(len)).map_err(io::Error::other)?];
        self.output.read_exact(&mut answer)?;
        let mut rest = answer.as_slice();
        let mut traces = Vec::new();
        while !rest.is_empty() {
            let trace = take(&mut rest).ok_or_else(|| io::Error::other("the answer is cut off"))?;
            traces.push(Trace::decode(trace).map_err(io::Error::other)?);
        }
        Ok(traces)
    }

    /// Runs one program.
    ///
    /// # Panics
    /// If Erlang is gone.
    pub fn run(&mut self, program: &Program) -> Trace {
        self.send([program]).expect("Erlang takes a program");
        self.receive().expect("Erlang answers").pop().expect("with a trace for each program")
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        // It would also end by itself, at the end of its input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(u32::try_from(part.len()).expect("a batch is small").to_be_bytes());
    bytes.extend(part);
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    *bytes = rest;
    Some(part)
}
