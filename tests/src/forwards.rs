//! Ways to carry TCP connections, measured side by side on loopback: connections a second, CPU time, memory of idle
//! connections, and requests beside a stalled connection. The ways take turns within each round.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{Folder, PASSWORD, PATIENCE, Running, available, program};

/// The connections that are opened at the same time.
const PARALLEL: usize = 16;
/// The bytes of a request, and of its answer.
const REQUEST: [u8; 64] = [7; 64];
/// The connections of which one is stalled, and the requests of each.
const BESIDE: usize = 100;
const REQUESTS: usize = 100;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often each way is measured.
    pub rounds: usize,
    /// The short connections in a round.
    pub connections: usize,
    /// The idle connections whose memory is measured.
    pub idle: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, connections: 1000, idle: 300 }
    }
}

/// A way to carry connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Isolate,
    Ssh,
    Stunnel,
}

impl Way {
    const ALL: [Self; 4] = [Self::Forward, Self::Isolate, Self::Ssh, Self::Stunnel];

    const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Isolate => "forward --isolate",
            Self::Ssh => "ssh -L",
            Self::Stunnel => "stunnel",
        }
    }

    fn is_there(self) -> bool {
        match self {
            Self::Forward | Self::Isolate => true,
            Self::Ssh => available("ssh") && Path::new("/usr/sbin/sshd").exists(),
            Self::Stunnel => available("stunnel4"),
        }
    }
}

/// Both programs of a way, ready to carry.
struct Carrier {
    port: u16,
    pids: Vec<u32>,
    _files: Folder,
    _ours: Option<[Running; 2]>,
    _others: Vec<Killed>,
}

impl Carrier {
    fn start(way: Way, target: u16) -> io::Result<Self> {
        match way {
            Way::Forward => Ok(Self::ours(target, &[])),
            Way::Isolate => Ok(Self::ours(target, &["--isolate"])),
            Way::Ssh => Self::ssh(target),
            Way::Stunnel => Self::stunnel(target),
        }
    }

    fn ours(target: u16, options: &[&str]) -> Self {
        let files = Folder::new();
        let password = files.write("password", &format!("{PASSWORD}\n"));
        let config = format!(
            "listen = ['127.0.0.1:0']\n[[service]]\nname = 's'\npassword_file = 'password'\n\
             mfa = ['tcp', 'connect', '127.0.0.1:{target}']\n\
             [limits]\nmax_sessions_per_client = 5000\nmax_resumable_per_client = 5000"
        );
        let mut server = Command::new(program("chan-server"));
        server.arg("serve").arg("--config").arg(files.write("chan-server.toml", &config));
        // Into a file: nobody who reads along takes the time of those that are measured.
        server.arg("--state").arg(files.path().join("state")).arg("--log-file").arg(files.path().join("log"));
        let server = Running::start(server);
        let url = server.out.wait("the URL", |line| line.starts_with("s: "));
        let mut client = Command::new(program("chan-client"));
        client.args(["forward", "0", &url["s: ".len()..], "--max-connections", "5000", "--resume", "0"]);
        client.args(options).arg("--password-file").arg(password).env("HOME", files.path());
        let client = Running::start(client);
        let line = client.out.wait("listening", |line| line.starts_with("listening"));
        let port = line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let pids = vec![server.id(), client.id()];
        Self { port, pids, _files: files, _ours: Some([server, client]), _others: Vec::new() }
    }

    fn ssh(target: u16) -> io::Result<Self> {
        let files = Folder::new();
        let at = |name: &str| files.path().join(name).display().to_string();
        for name in ["host", "user"] {
            succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]))?;
        }
        fs::copy(at("user.pub"), at("authorized"))?;
        let (far, near) = (free_port()?, free_port()?);
        fs::write(at("known"), format!("[127.0.0.1]:{far} {}", fs::read_to_string(at("host.pub"))?))?;
        let _ = fs::create_dir_all("/run/sshd");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-f", "/dev/null", "-o", &format!("ListenAddress=127.0.0.1:{far}")]);
        sshd.args(["-o", "StrictModes=no", "-o", "PidFile=none"]);
        sshd.args(["-o", &format!("HostKey={}", at("host"))]);
        sshd.args(["-o", &format!("AuthorizedKeysFile={}", at("authorized"))]);
        let sshd = quiet(&mut sshd)?;
        wait_for(far)?;
        let mut ssh = Command::new("ssh");
        ssh.args(["-N", "-F", "none", "-p", &far.to_string(), "-i", &at("user"), "-o", "BatchMode=yes"]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", at("known"))]);
        ssh.args(["-L", &format!("127.0.0.1:{near}:127.0.0.1:{target}"), "127.0.0.1"]);
        let ssh = quiet(&mut ssh)?;
        Self::of(files, near, vec![sshd, ssh])
    }

    fn stunnel(target: u16) -> io::Result<Self> {
        let files = Folder::new();
        let at = |name: &str| files.path().join(name).display().to_string();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        succeed(openssl.args([
            "-subj",
            "/CN=localhost",
            "-keyout",
            &at("key.pem"),
            "-out",
            &at("cert.pem"),
        ]))?;
        let (far, near) = (free_port()?, free_port()?);
        let common = "foreground = yes\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsslVersion = TLSv1.3\n[s]\n";
        let (cert, key) = (at("cert.pem"), at("key.pem"));
        let far_conf =
            format!("accept = 127.0.0.1:{far}\nconnect = 127.0.0.1:{target}\ncert = {cert}\nkey = {key}\n");
        let near_conf = format!(
            "client = yes\naccept = 127.0.0.1:{near}\nconnect = 127.0.0.1:{far}\nverifyPeer = yes\nCAfile = {cert}\n"
        );
        let mut children = Vec::new();
        for (name, conf, port) in [("far.conf", far_conf, far), ("near.conf", near_conf, near)] {
            fs::write(at(name), format!("{common}{conf}"))?;
            children.push(quiet(Command::new("stunnel4").arg(at(name)))?);
            wait_for(port)?;
        }
        Self::of(files, near, children)
    }

    fn of(files: Folder, port: u16, others: Vec<Killed>) -> io::Result<Self> {
        wait_for(port)?;
        let pids = others.iter().map(|Killed(other)| other.id()).collect();
        Ok(Self { port, pids, _files: files, _ours: None, _others: others })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The processes of both programs, with their descendants.
    fn processes(&self) -> Vec<u32> {
        let mut parents = HashMap::<u32, Vec<u32>>::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = stat(pid).and_then(|stat| stat.get(1)?.parse().ok()) {
                parents.entry(parent).or_default().push(pid);
            }
        }
        let (mut all, mut next) = (self.pids.clone(), 0);
        while next < all.len() {
            all.extend(parents.get(&all[next]).into_iter().flatten());
            next += 1;
        }
        all
    }

    /// The CPU time of both programs, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let of = |pid: u32| -> Option<u64> {
            let stat = stat(pid)?;
            Some((11..13).filter_map(|field| stat.get(field)?.parse::<u64>().ok()).sum())
        };
        self.processes().into_iter().filter_map(of).sum()
    }

    /// The memory of both programs, in bytes; shared pages count in part.
    fn memory(&self) -> u64 {
        let of = |pid: u32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Pss:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        };
        self.processes().into_iter().filter_map(of).sum()
    }
}

/// The fields of `/proc/PID/stat` behind the name: the state, the parent…
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A program that is killed when it is no longer needed.
pub(crate) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that nobody hears.
pub(crate) fn quiet(command: &mut Command) -> io::Result<Killed> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Killed)
}

pub(crate) fn succeed(command: &mut Command) -> io::Result<()> {
    match quiet(command)?.0.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?} failed"))),
    }
}

/// Waits until somebody listens at a port.
pub(crate) fn wait_for(port: u16) -> io::Result<()> {
    let began = Instant::now();
    while let Err(error) = TcpStream::connect(("127.0.0.1", port)) {
        if began.elapsed() > PATIENCE {
            return Err(error);
        }
        thread::yield_now();
    }
    Ok(())
}

/// A target that returns what it gets, unless the first byte is 0: then it reads nothing and sends without end.
fn target() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || -> io::Result<()> {
                stream.set_nodelay(true)?;
                let mut buffer = [0; 4096];
                let mut len = stream.read(&mut buffer)?;
                while len > 0 {
                    if buffer[0] == 0 {
                        loop {
                            stream.write_all(&buffer)?;
                        }
                    }
                    stream.write_all(&buffer[..len])?;
                    len = stream.read(&mut buffer)?;
                }
                stream.shutdown(Shutdown::Write)
            });
        }
    });
    Ok(port)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&REQUEST)?;
    stream.read_exact(&mut REQUEST.clone())
}

/// Opens so many connections, each for one request. Returns the time of all.
fn short(carrier: &Carrier, connections: usize) -> io::Result<Duration> {
    let began = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..PARALLEL)
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    for _ in 0..connections / PARALLEL {
                        let mut stream = carrier.connect()?;
                        ask(&mut stream)?;
                        stream.shutdown(Shutdown::Write)?;
                        stream.read_to_end(&mut Vec::new())?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a panic"))?)
    })?;
    Ok(began.elapsed())
}

/// Opens connections that stay open and have said something.
fn open(carrier: &Carrier, connections: usize) -> io::Result<Vec<TcpStream>> {
    (0..connections)
        .map(|_| {
            let mut stream = carrier.connect()?;
            ask(&mut stream)?;
            Ok(stream)
        })
        .collect()
}

/// Requests in turn over all connections. Returns the median time of one.
fn requests(streams: &mut [TcpStream]) -> io::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        for stream in &mut *streams {
            let began = Instant::now();
            ask(stream)?;
            times.push(began.elapsed());
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// The figures of one way, one of each for each round.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    idle: Vec<f64>,
    calm: Vec<f64>,
    beside: Vec<f64>,
}

impl Figures {
    fn round(&mut self, way: Way, target: u16, options: Options) -> io::Result<()> {
        let carrier = Carrier::start(way, target)?;
        short(&carrier, options.connections / 10)?;
        let ticks = carrier.ticks();
        let connections = (options.connections / PARALLEL * PARALLEL) as f64;
        self.rate.push(connections / short(&carrier, options.connections)?.as_secs_f64());
        self.cpu.push((carrier.ticks() - ticks) as f64 * 10_000.0 / connections);
        let before = carrier.memory();
        let mut streams = open(&carrier, options.idle)?;
        self.idle.push(carrier.memory().saturating_sub(before) as f64 / options.idle as f64 / 1024.0);
        streams.truncate(BESIDE - 1);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        self.calm.push(micros(requests(&mut streams)?));
        let mut stalled = carrier.connect()?;
        stalled.write_all(&[0])?;
        self.beside.push(micros(requests(&mut streams)?));
        Ok(())
    }
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, and the least and the greatest.
pub(crate) fn spread(figures: &[f64], digits: usize) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.digits$} ({least:.digits$} to {greatest:.digits$})", median(figures))
}

/// Measures all ways that this machine has. Returns a table.
///
/// # Errors
/// A program does not start, or a connection fails.
pub fn measure(options: Options) -> io::Result<String> {
    let target = target()?;
    let mut all: Vec<(Way, Figures)> = Vec::new();
    all.extend(Way::ALL.into_iter().filter(|way| way.is_there()).map(|way| (way, Figures::default())));
    for _ in 0..options.rounds {
        for (way, figures) in &mut all {
            figures.round(*way, target, options)?;
        }
    }
    let mut table = String::from(
        "| way | connections a second | CPU for one, µs | KiB for an idle one | request, µs | beside a stalled one, µs |\n\
         |---|---|---|---|---|---|\n",
    );
    for (way, figures) in &all {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            way.name(),
            spread(&figures.rate, 0),
            spread(&figures.cpu, 0),
            spread(&figures.idle, 1),
            spread(&figures.calm, 0),
            spread(&figures.beside, 0),
        );
    }
    for (way, figures) in all.iter().skip(1) {
        let ratios: Vec<f64> =
            all[0].1.rate.iter().zip(&figures.rate).map(|(ours, theirs)| ours / theirs).collect();
        let _ = writeln!(table, "connections a second, ratio to {}: {}", way.name(), spread(&ratios, 2));
    }
    Ok(table)
}
