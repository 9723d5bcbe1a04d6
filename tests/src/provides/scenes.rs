//! What users do with a provided service, and what goes wrong meanwhile.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{Site, broken};
use crate::{
    PATIENCE, available,
    forwards::{quiet, succeed},
    program, run,
};

/// Ports of loopback on the machine behind NAT.
const SSH_PORT: u16 = 2222;
const POSTGRES_PORT: u16 = 5433;
const WEB_PORT: u16 = 8080;
const PAGE_LEN: usize = 16 << 20;

/// Runs a command and returns its output.
///
/// # Errors
/// It fails.
fn output(command: &mut Command) -> io::Result<Vec<u8>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(broken(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// `ssh` to the `sshd` behind NAT, with `pipe` as its ProxyCommand.
pub(super) fn ssh(site: &Site<'_>, say: &impl Fn(&str)) -> io::Result<()> {
    let at = |name: &str| site.files.path().join(name).display().to_string();
    for name in ["host", "user"] {
        succeed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]))?;
    }
    let _ = fs::create_dir_all("/run/sshd");
    let mut sshd = site.network.office(Path::new("/usr/sbin/sshd"));
    sshd.args(["-D", "-f", "/dev/null", "-o", &format!("ListenAddress=127.0.0.1:{SSH_PORT}")]);
    sshd.args(["-o", "StrictModes=no", "-o", "PidFile=none", "-o", &format!("HostKey={}", at("host"))]);
    sshd.args(["-o", &format!("AuthorizedKeysFile={}", at("user.pub"))]);
    let _sshd = quiet(&mut sshd)?;
    let _provider = site.provide("ssh", &["--tcp", &format!("127.0.0.1:{SSH_PORT}")]);
    let proxy = format!(
        "ProxyCommand={} pipe '{}' --password-file {}",
        program("chan-client").display(),
        site.url("ssh"),
        at("password")
    );
    let user = run(Command::new("id").arg("-un")).1.trim().to_owned();
    let ssh = |remote: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", &proxy, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-i", &at("user"), &format!("{user}@office"), remote]);
        output(&mut ssh)
    };
    let until = Instant::now() + PATIENCE;
    // The sshd may not listen yet.
    let namespace = loop {
        match ssh("ip netns identify; hostname -I") {
            Ok(namespace) => {
                break String::from_utf8_lossy(&namespace).split_whitespace().collect::<Vec<_>>().join(" ");
            }
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::yield_now(),
        }
    };
    let began = Instant::now();
    let len = ssh("head -c 33554432 /dev/zero")?.len();
    if len != 32 << 20 {
        return Err(broken(format!("ssh: {len} bytes")));
    }
    say(&format!(
        "ssh: logged in to {namespace}; 32 MiB in {:.1} s, login included",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// `psql` and `pgbench` with the PostgreSQL behind NAT, through `forward`.
pub(super) fn postgres(site: &Site<'_>, say: &impl Fn(&str)) -> io::Result<()> {
    if !["initdb", "postgres", "setpriv"].iter().all(|program| available(program)) {
        return Ok(());
    }
    let folder = crate::Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let data = folder.path().join("data");
    let as_nobody = |command: &mut Command, name: &str| {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", name]).current_dir("/");
    };
    let mut initdb = Command::new("setpriv");
    as_nobody(&mut initdb, "initdb");
    succeed(initdb.args(["-A", "trust", "-U", "joe", "--no-sync", "-D"]).arg(&data))?;
    let mut postgres = site.network.office(Path::new("setpriv"));
    as_nobody(&mut postgres, "postgres");
    postgres.arg("-D").arg(&data).arg("-k").arg(&data).args([
        "-c",
        "fsync=off",
        "-p",
        &POSTGRES_PORT.to_string(),
    ]);
    postgres.args(["-c", "listen_addresses=127.0.0.1"]);
    let _postgres = quiet(&mut postgres)?;
    let _provider = site.provide("postgres", &["--tcp", &format!("127.0.0.1:{POSTGRES_PORT}")]);
    let (forward, port) = site.forward("postgres");
    let client = |name: &str, arguments: &[&str]| {
        let mut client = Command::new(name);
        client.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "joe"]).args(arguments);
        output(client.env("HOME", folder.path()))
    };
    let until = Instant::now() + PATIENCE;
    while let Err(error) = client("psql", &["-d", "postgres", "-qtAX", "-c", "select 1"]) {
        if Instant::now() > until {
            return Err(error);
        }
        thread::yield_now();
    }
    let rows = client(
        "psql",
        &["-d", "postgres", "-qtAX", "-c", "select repeat('x', 100) from generate_series(1, 100000)"],
    )?;
    if rows.len() != 101 * 100_000 {
        return Err(broken(format!("psql: {} bytes", rows.len())));
    }
    client("pgbench", &["-i", "-q", "-s", "2", "postgres"])?;
    let bench = client("pgbench", &["-c", "8", "-T", "5", "-S", "postgres"])?;
    let bench = String::from_utf8_lossy(&bench);
    let line =
        |start: &str| bench.lines().find(|line| line.starts_with(start)).unwrap_or("nothing").to_owned();
    say(&format!(
        "postgres: psql got 10.1 MB; pgbench -c 8 -T 5 -S: {}, {}",
        line("tps"),
        line("number of failed transactions")
    ));
    drop(forward);
    Ok(())
}

/// A page of the web server behind NAT, through `forward`.
pub(super) fn web(site: &Site<'_>, say: &impl Fn(&str)) -> io::Result<()> {
    let folder = crate::Folder::new();
    let page: Vec<u8> = (0..PAGE_LEN).map(|n| (n / 11) as u8).collect();
    fs::write(folder.path().join("page"), &page)?;
    let mut server = site.network.office(Path::new("python3"));
    server
        .args(["-m", "http.server", &WEB_PORT.to_string(), "--bind", "127.0.0.1"])
        .current_dir(folder.path());
    let _server = quiet(&mut server)?;
    let _provider = site.provide("web", &["--tcp", &format!("127.0.0.1:{WEB_PORT}")]);
    let (_forward, port) = site.forward("web");
    let url = format!("http://127.0.0.1:{port}/page");
    let until = Instant::now() + PATIENCE;
    loop {
        match output(Command::new("curl").args(["-s", "-S", "-f", &url])) {
            Ok(got) if got == page => break,
            Ok(got) => return Err(broken(format!("web: {} bytes, or others", got.len()))),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::yield_now(),
        }
    }
    say("web: curl got a page of 16 MiB, byte for byte");
    Ok(())
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[7; 64])?;
    stream.read_exact(&mut [0; 64])
}

/// Two providers of one name, of which one is killed.
pub(super) fn killed_provider(site: &Site<'_>, say: &impl Fn(&str)) -> io::Result<()> {
    let (_target, target) = site.target();
    let target = format!("127.0.0.1:{target}");
    let first = site.provide("target", &["--tcp", &target, "--resume", "0"]);
    let _second = site.provide("target", &["--tcp", &target]);
    let (forward, port) = site.forward("target");
    let mut streams = (0..20).map(|_| connect(port)).collect::<io::Result<Vec<_>>>()?;
    streams.iter_mut().try_for_each(ask)?;
    // `ip` has become the client.
    first.signal("KILL");
    let began = Instant::now();
    let mut lost = Vec::new();
    for stream in &mut streams {
        if ask(stream).is_err() {
            lost.push(began.elapsed());
        }
    }
    let after = Instant::now();
    for _ in 0..20 {
        ask(&mut connect(port)?)?;
    }
    if lost.len() != 10 {
        return Err(broken(format!("{} of 20 streams were lost: {:?}", lost.len(), forward.err.all())));
    }
    say(&format!(
        "killed provider: 10 of 20 streams were reset, the last {:.0} ms after the kill; the other 10 and the next 20 \
         went on, these in {:.0} ms",
        lost.last().unwrap_or(&Duration::ZERO).as_secs_f64() * 1e3,
        after.elapsed().as_secs_f64() * 1e3
    ));
    Ok(())
}

/// The network behind which the provider is loses every packet for some seconds.
pub(super) fn cut(site: &Site<'_>, say: &impl Fn(&str)) -> io::Result<()> {
    let (_target, target) = site.target();
    let provider = site.provide("target", &["--tcp", &format!("127.0.0.1:{target}"), "--resume", "1m"]);
    let (forward, port) = site.forward("target");
    let mut streams = (0..10).map(|_| connect(port)).collect::<io::Result<Vec<_>>>()?;
    streams.iter_mut().try_for_each(ask)?;
    site.network.cable(false)?;
    let began = Instant::now();
    provider.err.wait("the loss", |line| line.ends_with("reconnecting…"));
    let noticed = began.elapsed();
    site.network.cable(true)?;
    let restored = Instant::now();
    streams.iter_mut().try_for_each(ask)?;
    let gap = restored.elapsed();
    provider.err.wait("the news", |line| line.ends_with("reconnected"));
    if !forward.err.all().is_empty() {
        return Err(broken(format!("the consumer noticed: {:?}", forward.err.all())));
    }
    say(&format!(
        "cut: noticed after {:.1} s (heartbeat of 1 s); all 10 streams went on {:.1} s after the network did, and the \
         consumer said nothing",
        noticed.as_secs_f64(),
        gap.as_secs_f64()
    ));
    Ok(())
}
