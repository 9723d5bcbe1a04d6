//! A server inside the test, for services that the standard modules cannot be.

use std::{io::Write, net::Ipv4Addr, path::Path, process::Command, sync::Arc};

use chan_client::{connect, trust::Trust, url::ChanUrl};
use chan_server::{
    Server,
    audit::{Audit, Format},
    config::Config,
    identity::StateDir,
    modules::Modules,
};
use lib_chan::{
    Channel, Limits,
    handshake::Authenticated,
    login::{ClientLogin, Credential, LoginError},
    protocol::Transmit,
    secret::{PrivateKey, Secret, Target},
    tls::{PinVerifier, client_config, exporter},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Folder, Lines, program};

/// Logs in at this URL from an address of loopback, and hands out the stream as it is before the session.
///
/// # Errors
/// When there is no connection, no TLS, or no login.
///
/// # Panics
/// If the URL is none of a server of this machine that it pins.
pub async fn login(
    url: &str,
    credential: Credential<'_>,
    from: Ipv4Addr,
) -> Result<(TlsStream<TcpStream>, Authenticated), LoginError> {
    let url: ChanUrl = url.parse().expect("a URL");
    let Trust::Pin(pins) = url.trust().clone() else { panic!("it pins") };
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let server = &url.authorities()[0];
    let tcp = socket.connect((Ipv4Addr::LOCALHOST, server.port()).into()).await?;
    let config = client_config(Arc::new(PinVerifier::new(pins))).expect("a configuration");
    let mut stream = TlsConnector::from(config).connect(server.host().clone(), tcp).await?;
    let exporter = exporter(stream.get_ref().1).expect("TLS is done");
    let host = server.to_string().into();
    let target = Target { host, service: url.service().clone(), client: url.client().clone() };
    let login = ClientLogin::prepare(target, credential).await;
    let authenticated = login.run(&mut stream, exporter).await?;
    Ok((stream, authenticated))
}

/// A server of the library, on a runtime of its own, so that a test may block. Its client `joe` logs in with a key.
#[derive(Debug)]
pub struct Embedded {
    runtime: Option<Runtime>,
    server: Option<Server>,
    /// Holds its state, and the client's key.
    pub folder: Folder,
    /// Its log, one JSON object a line.
    pub log: Lines,
    key: PrivateKey,
}

/// The key with which `joe` logs in.
///
/// # Panics
/// Never: any seed makes a key.
pub fn client_key() -> PrivateKey {
    PrivateKey::from_seed(Secret::new([7; 32])).expect("a seed makes a key")
}

impl Embedded {
    /// Starts one whose services are functions of the module `test`, each under its own name, with these lines of
    /// `[limits]`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(modules: Modules, functions: &[&str], limits: &str) -> Self {
        Self::serve(modules, "test", functions, limits)
    }

    /// The same for the functions of another module.
    ///
    /// # Panics
    /// If it does not start.
    pub fn serve(modules: Modules, module: &str, functions: &[&str], limits: &str) -> Self {
        let folder = Folder::new();
        let key = client_key();
        folder.write("key", &key.to_file_contents());
        let mut text = String::from("listen = ['127.0.0.1:0']\n");
        for function in functions {
            let line = key.public_key();
            text += &format!(
                "[[service]]\nname = '{function}'\nmfa = ['{module}', '{function}']\n\
                 [[service.client]]\nname = 'joe'\nkey = '{line}'\n"
            );
        }
        text += &format!("[limits]\n{limits}\n");
        let config = Config::parse(&text, Path::new("test"), &modules).expect("a configuration");
        let state = StateDir::at(folder.path().join("state"));
        let log = Lines::default();
        let audit = Audit::to(LineWriter { lines: log.clone(), part: Vec::new() }, Format::Json);
        let runtime = Runtime::new().expect("a runtime");
        let server = std::thread::scope(|scope| {
            let start = || runtime.block_on(Server::bind(config, &state, audit));
            scope.spawn(start).join().expect("no panic").expect("the server starts")
        });
        Self { runtime: Some(runtime), server: Some(server), folder, log, key }
    }

    /// The URL of a service.
    ///
    /// # Panics
    /// If there is no such service.
    pub fn url(&self, service: &str) -> String {
        let mut urls = self.server.iter().flat_map(Server::urls);
        urls.find(|url| url.service == service).expect("a service of this server").url
    }

    /// The key that `joe` logs in with.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Opens a session at this URL.
    ///
    /// # Panics
    /// If there is none.
    pub async fn open_at<In, Out: Transmit>(
        &self,
        url: &str,
        limits: Limits,
        linked: bool,
    ) -> Channel<In, Out> {
        let connect = connect(url).key(&self.key).limits(limits);
        let connect = if linked { connect.linked() } else { connect };
        connect.open().await.expect("a session")
    }

    /// Opens a session with a service.
    ///
    /// # Panics
    /// If there is none.
    pub async fn open<In, Out: Transmit>(&self, service: &str) -> Channel<In, Out> {
        self.open_at(&self.url(service), Limits::default(), false).await
    }

    /// Logs in, and hands out the stream as it is before the session.
    ///
    /// # Errors
    /// When there is no TLS, or no login.
    ///
    /// # Panics
    /// If the URL is none.
    pub async fn login(&self, service: &str) -> Result<(TlsStream<TcpStream>, Authenticated), LoginError> {
        login(&self.url(service), Credential::Key(&self.key), Ipv4Addr::LOCALHOST).await
    }

    /// The program `chan-client`, with the right key.
    pub fn client(&self, command: &str, service: &str) -> Command {
        self.client_at(command, &self.url(service))
    }

    /// The same with any URL.
    pub fn client_at(&self, command: &str, url: &str) -> Command {
        let mut client = Command::new(program("chan-client"));
        client.arg(command).arg(url).arg("--key-file").arg(self.folder.path().join("key"));
        client.env("HOME", self.folder.path()).stdin(std::process::Stdio::null());
        client
    }

    /// Takes the server out, to drain it on its own runtime and shut it down after that.
    ///
    /// # Panics
    /// If it was shut down before.
    pub fn drain(&mut self) -> tokio::task::JoinHandle<()> {
        let mut server = self.server.take().expect("a server");
        self.runtime.as_ref().expect("a runtime").spawn(async move {
            server.drain().await;
            server.shutdown().await;
        })
    }

    /// Takes the server out, to shut it down on its own runtime.
    ///
    /// # Panics
    /// If it was shut down before.
    pub fn shutdown(&mut self) -> tokio::task::JoinHandle<()> {
        let server = self.server.take().expect("a server");
        self.runtime.as_ref().expect("a runtime").spawn(server.shutdown())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes lines of what is written.
struct LineWriter {
    lines: Lines,
    part: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.part.extend_from_slice(bytes);
        while let Some(end) = self.part.iter().position(|&byte| byte == b'\n') {
            let line = self.part.drain(..=end).collect::<Vec<_>>();
            self.lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
