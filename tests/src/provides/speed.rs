//! Bulk and requests, beside `ssh -R`.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    process::Command,
    thread,
};

use tokio::time::Instant;

use super::{Options, Site};
use crate::{
    Folder, PATIENCE, Running,
    forwards::{Killed, free_port, median, quiet, spread, succeed, wait_for},
};

/// The connections that are opened at the same time.
const PARALLEL: usize = 8;

/// A way from a port of the public side to the target behind NAT.
struct Carrier {
    port: u16,
    _files: Folder,
    _ours: Option<[Running; 2]>,
    _others: Vec<Killed>,
}

impl Carrier {
    fn ours(site: &Site<'_>, target: u16) -> Self {
        let provider = site.provide("target", &["--tcp", &format!("127.0.0.1:{target}")]);
        let (forward, port) = site.forward("target");
        Self { port, _files: Folder::new(), _ours: Some([provider, forward]), _others: Vec::new() }
    }

    fn ssh(site: &Site<'_>, target: u16) -> io::Result<Self> {
        let files = Folder::new();
        let at = |name: &str| files.path().join(name).display().to_string();
        for name in ["host", "user"] {
            succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]))?;
        }
        let (public, far, port) = (site.network.public(), free_port()?, free_port()?);
        fs::write(at("known"), format!("[{public}]:{far} {}", fs::read_to_string(at("host.pub"))?))?;
        let _ = fs::create_dir_all("/run/sshd");
        let mut sshd = Command::new("/usr/sbin/sshd");
        for address in [public, "127.0.0.1"] {
            sshd.args(["-o", &format!("ListenAddress={address}:{far}")]);
        }
        sshd.args(["-D", "-f", "/dev/null", "-o", "StrictModes=no", "-o", "PidFile=none"]);
        sshd.args(["-o", &format!("HostKey={}", at("host"))]);
        sshd.args(["-o", &format!("AuthorizedKeysFile={}", at("user.pub"))]);
        let sshd = quiet(&mut sshd)?;
        wait_for(far)?;
        let mut ssh = site.network.office(Path::new("ssh"));
        ssh.args(["-N", "-F", "none", "-p", &far.to_string(), "-i", &at("user"), "-o", "BatchMode=yes"]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", at("known")), "-o", "ExitOnForwardFailure=yes"]);
        ssh.args(["-R", &format!("127.0.0.1:{port}:127.0.0.1:{target}"), public]);
        let ssh = quiet(&mut ssh)?;
        let this = Self { port, _files: files, _ours: None, _others: vec![sshd, ssh] };
        wait_for(port)?;
        Ok(this)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// The figures of one way, one of each for each round.
#[derive(Default)]
struct Figures {
    down: Vec<f64>,
    up: Vec<f64>,
    request: Vec<f64>,
    rate: Vec<f64>,
}

impl Figures {
    fn round(&mut self, carrier: &Carrier, options: Options) -> io::Result<()> {
        let len = options.mib << 20;
        let mib_a_second = |began: Instant| options.mib as f64 / began.elapsed().as_secs_f64();
        let mut buffer = vec![7; 64 * 1024];
        let mut stream = carrier.connect()?;
        let began = Instant::now();
        stream.write_all(&[&b"d"[..], &(len as u64).to_be_bytes()].concat())?;
        let mut got = 0;
        while let read @ 1.. = stream.read(&mut buffer)? {
            got += read;
        }
        assert_eq!(got, len, "bytes came");
        self.down.push(mib_a_second(began));
        let mut stream = carrier.connect()?;
        buffer.fill(b'u');
        let began = Instant::now();
        (0..len / buffer.len()).try_for_each(|_| stream.write_all(&buffer))?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0])?;
        self.up.push(mib_a_second(began));
        let mut stream = carrier.connect()?;
        let mut times = Vec::new();
        for _ in 0..options.requests {
            let began = Instant::now();
            ask(&mut stream)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        self.request.push(median(&times));
        let began = Instant::now();
        let each = options.connections / PARALLEL;
        short(carrier, each)?;
        self.rate.push((each * PARALLEL) as f64 / began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[7; 64])?;
    stream.read_exact(&mut [0; 64])
}

/// Opens so many connections in each thread, each for one request.
fn short(carrier: &Carrier, each: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let connection = || -> io::Result<()> {
            let mut stream = carrier.connect()?;
            ask(&mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        };
        let threads: Vec<_> =
            (0..PARALLEL).map(|_| scope.spawn(move || (0..each).try_for_each(|_| connection()))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a panic"))?)
    })
}

/// Measures both ways in turn. Returns a table.
pub(super) fn measure(site: &Site<'_>, options: Options) -> io::Result<String> {
    let (_target, target) = site.target();
    let mut all = [("provide", Figures::default()), ("ssh -R", Figures::default())];
    for _ in 0..options.rounds {
        for (name, figures) in &mut all {
            let carrier = match *name {
                "provide" => Carrier::ours(site, target),
                _ => Carrier::ssh(site, target)?,
            };
            figures.round(&carrier, options)?;
        }
    }
    let mut table = String::from(
        "| way | download, MiB/s | upload, MiB/s | request, µs | connections a second |\n|---|---|---|---|---|\n",
    );
    for (name, Figures { down, up, request, rate }) in &all {
        let cells = [spread(down, 0), spread(up, 0), spread(request, 0), spread(rate, 0)].join(" | ");
        let _ = writeln!(table, "| {name} | {cells} |");
    }
    let [(_, ours), (_, theirs)] = &all;
    let ratio = |ours: &[f64], theirs: &[f64]| {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        spread(&ratios, 2)
    };
    let _ = write!(
        table,
        "ratios of provide to ssh -R, round by round: download {}, upload {}, request {}, connections {}",
        ratio(&ours.down, &theirs.down),
        ratio(&ours.up, &theirs.up),
        ratio(&ours.request, &theirs.request),
        ratio(&ours.rate, &theirs.rate)
    );
    Ok(table)
}
