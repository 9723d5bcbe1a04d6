//! Services of a machine behind NAT, in network namespaces: `chan-client provide` with real programs, a killed provider, a
//! cut network; and its speed beside `ssh -R`. The ways take turns within each round.

mod network;
mod scenes;
mod speed;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    thread,
};

use self::network::Network;
use crate::{Folder, Lines, PASSWORD, Running, available, program};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often each way is measured.
    pub rounds: usize,
    /// The length of a bulk transfer.
    pub mib: usize,
    /// The requests in turn over one connection.
    pub requests: usize,
    /// The short connections in a round.
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, mib: 64, requests: 2000, connections: 400 }
    }
}

/// Runs all scenes and measures. Says what it saw, line by line.
///
/// # Errors
/// A program does not start, or a promise is broken.
pub fn run(options: Options, say: impl Fn(&str)) -> io::Result<()> {
    let root = crate::run(Command::new("id").arg("-u")).1.trim() == "0";
    let tools = ["ip", "nft", "ssh", "ssh-keygen", "/usr/sbin/sshd", "psql", "pgbench", "python3", "curl"];
    if !root {
        say("skipped: network namespaces need root");
        return Ok(());
    }
    if !tools.iter().all(|tool| available(tool)) {
        return Ok(());
    }
    let network = Network::new()?;
    say(&network.assert_no_way_in()?);
    let site = Site::start(&network)?;
    scenes::ssh(&site, &say)?;
    scenes::postgres(&site, &say)?;
    scenes::web(&site, &say)?;
    scenes::killed_provider(&site, &say)?;
    scenes::cut(&site, &say)?;
    say(&speed::measure(&site, options)?);
    Ok(())
}

/// The names that are provided.
const NAMES: [&str; 4] = ["ssh", "postgres", "web", "target"];

/// The server on the public side, and the URLs of its services.
struct Site<'n> {
    network: &'n Network,
    files: Folder,
    out: Lines,
    _server: Running,
}

impl<'n> Site<'n> {
    fn start(network: &'n Network) -> io::Result<Self> {
        let files = Folder::new();
        let mut config = format!("listen = ['{}:0']\n", network.public());
        for name in NAMES {
            config += &format!(
                "[[service]]\nname = '{name}'\npassword_file = 'password'\nmfa = ['provided', 'by', '{name}']\n\
                 [[service]]\nname = '{name}-providers'\npassword_file = 'password'\nmfa = ['provided', 'for', '{name}']\n"
            );
        }
        // A short heartbeat, so that a silent network is noticed within seconds.
        config += "[limits]\nheartbeat_interval = '1 s'\nmax_sessions_per_client = 2000\n";
        files.write("password", &format!("{PASSWORD}\n"));
        let mut server = Command::new(program("chan-server"));
        server.arg("serve").arg("--config").arg(files.write("chan-server.toml", &config));
        // Into a file: nobody who reads along takes the time of those that are measured.
        server.arg("--state").arg(files.path().join("state")).arg("--log-file").arg(files.path().join("log"));
        let server = Running::start(server);
        let out = server.out.clone();
        Ok(Self { network, files, out, _server: server })
    }

    fn url(&self, service: &str) -> String {
        let start = format!("{service}: ");
        let line = self.out.wait("the URL", |line| line.starts_with(&start));
        line[start.len()..].to_owned()
    }

    /// The options with which a client logs in.
    fn login(&self, command: &mut Command, service: &str) {
        command.arg(self.url(service)).arg("--password-file").arg(self.files.path().join("password"));
        command.env("HOME", self.files.path());
    }

    /// Starts a provider on the machine behind NAT, which the server has taken when this returns.
    fn provide(&self, name: &str, target: &[&str]) -> Running {
        let mut client = self.network.office(&program("chan-client"));
        client.arg("provide");
        self.login(&mut client, &format!("{name}-providers"));
        client.args(target).args(["--max-connections", "1000"]);
        let provider = Running::start(client);
        provider.out.wait("providing", |line| line.starts_with("providing"));
        provider
    }

    /// Starts `forward` on the public side. Returns its port.
    fn forward(&self, name: &str) -> (Running, u16) {
        let mut client = Command::new(program("chan-client"));
        client.args(["forward", "0"]);
        self.login(&mut client, name);
        client.args(["--max-connections", "1000"]);
        let forward = Running::start(client);
        let line = forward.out.wait("listening", |line| line.starts_with("listening"));
        let port = line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        (forward, port)
    }

    /// Starts the target of this program behind NAT. Returns its port there.
    fn target(&self) -> (Running, u16) {
        let mut target = self.network.office(&std::env::current_exe().expect("a program has a path"));
        target.arg("target");
        let target = Running::start(target);
        let line = target.out.wait("its port", |line| line.starts_with("target "));
        let port = line["target ".len()..].parse().expect("a port");
        (target, port)
    }
}

/// A failed expectation.
fn broken(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// Returns what it gets, on a port of loopback that it prints. If the first byte is `d`, it sends as many bytes as the next
/// eight say instead; if it is `u`, it reads to EOF and answers with one byte.
///
/// # Errors
/// There is no port.
pub fn serve_target() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    lib_chan::stdio::print(&format!("target {}\n", listener.local_addr()?.port()))?;
    for stream in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || serve_one(stream));
    }
    Ok(())
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut len = stream.read(&mut buffer[..64])?;
    match buffer[0] {
        b'd' if len > 0 => {
            while len < 9 {
                len += stream.read(&mut buffer[len..9])?;
            }
            let mut left = u64::from_be_bytes(buffer[1..9].try_into().unwrap_or_default());
            while left > 0 {
                let part = left.min(buffer.len() as u64);
                stream.write_all(&buffer[..part as usize])?;
                left -= part;
            }
        }
        b'u' if len > 0 => {
            while stream.read(&mut buffer)? > 0 {}
            stream.write_all(b".")?;
        }
        _ => {
            while len > 0 {
                stream.write_all(&buffer[..len])?;
                len = stream.read(&mut buffer)?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)
}
