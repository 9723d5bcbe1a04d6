//! Programs that carry TCP connections across a path: ours, ssh and stunnel. Each listens where the client is, and leads
//! to a server on the far host.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use super::path::{FAR, Path};

/// Who carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Chan,
    Ssh,
    Stunnel,
}

impl Carrier {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Chan => "chan-client forward",
            Self::Ssh => "ssh -L",
            Self::Stunnel => "stunnel",
        }
    }

    /// Whether its programs are on this machine.
    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Chan => true,
            Self::Ssh => FilePath::new("/usr/sbin/sshd").exists() && FilePath::new("/usr/bin/ssh").exists(),
            Self::Stunnel => FilePath::new("/usr/bin/stunnel4").exists(),
        }
    }
}

/// The port of a carrier at the far end, and of its listener at the near one. Both hosts are its own.
const FAR_PORT: u16 = 7001;
const NEAR_PORT: u16 = 7002;
/// How long a carrier may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both programs of a carrier; they end when it is dropped.
pub(super) struct Tunnel {
    _programs: [Child; 2],
    _files: tempfile::TempDir,
}

impl Tunnel {
    /// Where a client connects to.
    pub(super) fn address() -> SocketAddr {
        ([127, 0, 0, 1], NEAR_PORT).into()
    }

    /// Starts the far program and then the near one, which leads to `target` at the far host.
    pub(super) async fn start(carrier: Carrier, path: &Path, target: SocketAddr) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let dir = files.path();
        let [far, near] = match carrier {
            Carrier::Chan => chan(path, dir, target).await?,
            Carrier::Ssh => ssh(path, dir, target).await?,
            Carrier::Stunnel => stunnel(path, dir, target).await?,
        };
        Ok(Self { _programs: [far, near], _files: files })
    }
}

async fn chan(path: &Path, dir: &FilePath, target: SocketAddr) -> Result<[Child; 2]> {
    let (server, client) = (beside_us("chan-server")?, beside_us("chan-client")?);
    let key = output(Command::new(&client).arg("keygen").arg(dir.join("key"))).await?;
    let config = format!(
        "listen = [\"{FAR}:{FAR_PORT}\"]\n[[service]]\nname = \"tcp\"\nmfa = [\"tcp\", \"connect\", \"{target}\"]\n\
         [[service.client]]\nname = \"me\"\nkey = \"{}\"\n",
        key.trim()
    );
    let file = dir.join("chan-server.toml");
    std::fs::write(&file, config)?;
    let with_files = |command: &mut Command| {
        command.arg("--config").arg(&file).arg("--state").arg(dir.join("state"));
    };
    let mut serve = path.far(&server);
    serve.arg("serve");
    with_files(&mut serve);
    let far = start(&mut serve)?;
    wait_for(path.far("bash"), FAR, FAR_PORT).await?;
    let mut identity = Command::new(&server);
    identity.arg("identity");
    with_files(&mut identity);
    let identity = output(&mut identity).await?;
    let pin = identity.lines().next().context("a pin")?;
    let mut forward = path.near(&client);
    forward.args(["forward", &Tunnel::address().to_string(), "--key-file"]).arg(dir.join("key"));
    forward.arg(format!("chan://me@{FAR}:{FAR_PORT}/tcp?pin={pin}"));
    let near = start(&mut forward)?;
    wait_for(path.near("bash"), "127.0.0.1", NEAR_PORT).await?;
    Ok([far, near])
}

async fn ssh(path: &Path, dir: &FilePath, target: SocketAddr) -> Result<[Child; 2]> {
    for name in ["host", "user"] {
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name)))
            .await?;
    }
    std::fs::copy(dir.join("user.pub"), dir.join("authorized"))?;
    let host = std::fs::read_to_string(dir.join("host.pub"))?;
    std::fs::write(dir.join("known"), format!("[{FAR}]:{FAR_PORT} {host}"))?;
    std::fs::create_dir_all("/run/sshd")?;
    let option = |name: &str, file: &str| format!("{name}={}", dir.join(file).display());
    let mut sshd = path.far("/usr/sbin/sshd");
    sshd.args(["-D", "-f", "/dev/null", "-o", &format!("ListenAddress={FAR}:{FAR_PORT}")]);
    sshd.args(["-o", "StrictModes=no", "-o", "PidFile=none", "-o", "MaxStartups=200"]);
    sshd.args(["-o", &option("HostKey", "host"), "-o", &option("AuthorizedKeysFile", "authorized")]);
    let far = start(&mut sshd)?;
    wait_for(path.far("bash"), FAR, FAR_PORT).await?;
    let mut client = path.near("/usr/bin/ssh");
    client.args(["-N", "-F", "none", "-p", &FAR_PORT.to_string(), "-i"]).arg(dir.join("user"));
    client.args(["-o", &option("UserKnownHostsFile", "known"), "-o", "BatchMode=yes"]);
    client.args(["-L", &format!("{}:{target}", Tunnel::address()), &format!("root@{FAR}")]);
    let near = start(&mut client)?;
    wait_for(path.near("bash"), "127.0.0.1", NEAR_PORT).await?;
    Ok([far, near])
}

async fn stunnel(path: &Path, dir: &FilePath, target: SocketAddr) -> Result<[Child; 2]> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
    std::fs::write(dir.join("cert.pem"), made.cert.pem() + &made.signing_key.serialize_pem())?;
    let common =
        "foreground = yes\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsslVersion = TLSv1.3\n";
    let cert = dir.join("cert.pem").display().to_string();
    let far = format!("{common}[s]\naccept = {FAR}:{FAR_PORT}\nconnect = {target}\ncert = {cert}\n");
    let near = format!(
        "{common}[s]\nclient = yes\naccept = {}\nconnect = {FAR}:{FAR_PORT}\nverifyPeer = yes\nCAfile = {cert}\n",
        Tunnel::address()
    );
    std::fs::write(dir.join("far.conf"), far)?;
    std::fs::write(dir.join("near.conf"), near)?;
    let far = start(path.far("/usr/bin/stunnel4").arg(dir.join("far.conf")))?;
    wait_for(path.far("bash"), FAR, FAR_PORT).await?;
    let near = start(path.near("/usr/bin/stunnel4").arg(dir.join("near.conf")))?;
    wait_for(path.near("bash"), "127.0.0.1", NEAR_PORT).await?;
    Ok([far, near])
}

/// A program that was built together with this one.
fn beside_us(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is not built; `bench/network` builds it", program.display());
    Ok(program)
}

fn start(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until somebody listens there, seen from the host of `shell`.
async fn wait_for(mut shell: Command, address: &str, port: u16) -> Result<()> {
    let script = format!("until (: </dev/tcp/{address}/{port}) 2>/dev/null; do sleep .05; done");
    shell.args(["-c", &script]).kill_on_drop(true);
    let listening = tokio::time::timeout(PATIENCE, shell.status()).await;
    ensure!(listening.context("it does not listen")??.success(), "bash failed");
    Ok(())
}
