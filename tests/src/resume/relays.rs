//! Byte streams over a network that cuts every connection each second: a long copy through `chan-client pipe` in either
//! direction, and `redis-benchmark` through `chan-client forward`.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{Folder, Lines, Running, Server, program, proxy::Proxy};

const MIB: u64 = 1 << 20;
/// How long a connection lives.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// Copies so many MiB each way, and makes so many requests. Prints what it saw, and returns whether nothing was lost.
///
/// Blocks its thread, and needs another one of a tokio runtime.
///
/// # Errors
/// When a program cannot be started.
pub fn relays(mib: u64, requests: u64) -> io::Result<bool> {
    let mut ok = true;
    for upload in [true, false] {
        let name = if upload { "pipe, upload" } else { "pipe, download" };
        let began = Instant::now();
        let (cuts, problem) = copy(mib * MIB, upload)?;
        ok &= report(name, &format!("{mib} MiB"), began, cuts, problem);
    }
    let began = Instant::now();
    let (rates, cuts, problem) = redis(requests)?;
    ok &= report(
        "forward, redis-benchmark",
        &format!("{requests} requests of each kind, {rates}"),
        began,
        cuts,
        problem,
    );
    Ok(ok)
}

fn report(name: &str, what: &str, began: Instant, cuts: u32, problem: Option<String>) -> bool {
    print(&format!("{name}: {what} in {:.0} s, {cuts} cuts", began.elapsed().as_secs_f64()));
    if let Some(problem) = &problem {
        print(&format!("WRONG: {problem}"));
    }
    problem.is_none()
}

/// Cuts all connections of a proxy each second, until it is dropped.
struct Cutter {
    task: JoinHandle<()>,
    cuts: Arc<AtomicU32>,
}

impl Cutter {
    fn start(proxy: Proxy) -> Self {
        let cuts = Arc::<AtomicU32>::default();
        let made = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            loop {
                sleep(CUT_EVERY).await;
                proxy.cut();
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { task, cuts }
    }

    fn cuts(&self) -> u32 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server with one relay, behind a network that cuts.
fn behind_cuts(mfa: &str) -> (Server, String, Cutter) {
    let server =
        Server::start(&format!("[[service]]\nname = 's'\npassword_file = 'password'\nmfa = {mfa}\n"));
    let proxy = Proxy::before(server.url("s"));
    let url = proxy.url(server.url("s"));
    let cutter = Cutter::start(proxy);
    (server, url, cutter)
}

/// Bytes that nobody else sends: the numbers from 0, eight bytes each.
struct Numbers {
    next: u64,
    end: u64,
}

impl Numbers {
    fn of(len: u64) -> Self {
        Self { next: 0, end: len / 8 }
    }

    fn write(&mut self, into: &mut impl Write) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        while self.next < self.end {
            buffer.clear();
            let end = self.end.min(self.next + 8 * 1024);
            (self.next..end).for_each(|number| buffer.extend_from_slice(&number.to_be_bytes()));
            self.next = end;
            into.write_all(&buffer)?;
        }
        Ok(())
    }

    /// Reads to the end, and says what is wrong with the bytes.
    fn check(&mut self, from: &mut impl Read) -> Option<String> {
        let mut bytes = [0; 8];
        let mut from = io::BufReader::with_capacity(64 * 1024, from);
        while self.next < self.end {
            if let Err(error) = from.read_exact(&mut bytes) {
                return Some(format!("after {} bytes: {error}", self.next * 8));
            }
            if u64::from_be_bytes(bytes) != self.next {
                return Some(format!("other bytes after {}", self.next * 8));
            }
            self.next += 1;
        }
        match from.read(&mut bytes) {
            Ok(0) => None,
            Ok(_) => Some("more bytes than were sent".into()),
            Err(error) => Some(format!("no end: {error}")),
        }
    }
}

/// Copies so many bytes. The target tells after an upload what it thinks of the bytes.
fn copy(len: u64, upload: bool) -> io::Result<(u32, Option<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let target = listener.local_addr()?;
    let (server, url, cutter) = behind_cuts(&format!("['tcp', 'connect', '{target}']"));
    let target = thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        if upload {
            let problem = Numbers::of(len).check(&mut stream);
            stream.write_all(problem.unwrap_or_default().as_bytes())?;
        } else {
            Numbers::of(len).write(&mut stream)?;
        }
        stream.shutdown(Shutdown::Write)?;
        wait_for_end(&mut stream)
    });
    let mut pipe = server.client_at("pipe", &url, &server.folder.path().join("password"));
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (pipe.stdin.take(), pipe.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(io::Error::other("no pipes"));
    };
    let complaints = Lines::of(pipe.stderr.take().ok_or_else(|| io::Error::other("no pipe"))?);
    let feeding = thread::spawn(move || if upload { Numbers::of(len).write(&mut stdin) } else { Ok(()) });
    let mut problem = if upload {
        let mut said = String::new();
        stdout.read_to_string(&mut said)?;
        (!said.is_empty()).then_some(said)
    } else {
        Numbers::of(len).check(&mut stdout)
    };
    let code = pipe.wait()?.code();
    if code != Some(0) {
        problem = Some(format!("exit code {code:?}: {:?}; {problem:?}", complaints.all()));
    }
    for thread in [feeding, target] {
        if let Err(error) = thread.join().map_err(|_| io::Error::other("a panic")).flatten() {
            problem = Some(format!("{error}; {problem:?}"));
        }
    }
    Ok((cutter.cuts(), problem))
}

fn wait_for_end(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

/// Runs `redis-benchmark` with its fifty connections. Returns its rates.
fn redis(requests: u64) -> io::Result<(String, u32, Option<String>)> {
    let folder = Folder::new();
    let socket = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).arg("--dir").arg(folder.path());
    let mut redis = redis.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let log = Lines::of(redis.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?);
    log.wait("redis", |line| line.contains("ready to accept connections"));
    let (server, url, cutter) = behind_cuts(&format!("['unix', 'connect', '{}']", socket.display()));
    let mut forward = Command::new(program("chan-client"));
    forward.args(["forward", "0", &url, "--password-file"]).arg(server.folder.path().join("password"));
    forward.env("HOME", server.folder.path());
    let forward = Running::start(forward);
    let line = forward.out.wait("its port", |line| line.starts_with("listening"));
    let port = line.rsplit(':').next().unwrap_or_default();
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args(["-p", port, "-n", &requests.to_string(), "-c", "50", "-t", "set,get", "-d", "500", "-q"]);
    let output = benchmark.output()?;
    redis.kill()?;
    redis.wait()?;
    let out = String::from_utf8_lossy(&output.stdout);
    let rates: Vec<_> = out.split(['\r', '\n']).filter(|line| line.contains("requests per second")).collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let wrong = !output.status.success() || rates.len() != 2 || !complaint.is_empty();
    let problem = wrong.then(|| format!("{}: {out}{complaint}{:?}", output.status, forward.err.all()));
    Ok((rates.join("; "), cutter.cuts(), problem))
}

#[expect(clippy::print_stdout, reason = "it is what the program is run for")]
fn print(text: &str) {
    println!("{text}");
}
