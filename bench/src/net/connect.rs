//! Connections that are made and closed: a TLS handshake alone, and one with a login.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lib_chan::auth::{
    Account, AccountVerifier, Argon2Params, ClientId, Directory, NameKey, PasswordVerifier, ServiceName,
};
use lib_chan::channel::OpenRequest;
use lib_chan::handshake::{Authenticated, SessionParameters};
use lib_chan::login::{ClientLogin, Credential, login_server};
use lib_chan::payload::Codec;
use lib_chan::secret::{Password, PrivateKey, Secret, Target};
use lib_chan::{Limits, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::CONNECTORS;
use super::secure::{Client, Server};
use crate::sample::{Clock, Sample};

/// The secrets of a benchmark are none.
const PASSWORD: &str = "correct horse battery staple";
const KEY: [u8; 32] = [7; 32];
/// Of the service, and of the client.
const NAME: &str = "bench";

/// Who may log in.
pub(super) struct Accounts {
    directory: Directory,
    parameters: SessionParameters,
}

impl Accounts {
    /// One account, with a key.
    pub(super) fn with_key(limits: &Limits) -> Result<Self> {
        Self::new(limits, |_| Ok(AccountVerifier::Key(key()?.public_key())))
    }

    /// One account, with a password, which takes a moment.
    pub(super) fn with_password() -> Result<Self> {
        Self::new(&Limits::default(), |name_key| {
            let salt = name_key.salt(&service()?, &client()?);
            let verifier = PasswordVerifier::derive(&Password::new(PASSWORD)?, &salt, Argon2Params::DEFAULT)?;
            Ok(AccountVerifier::Password(verifier))
        })
    }

    fn new(limits: &Limits, verifier: impl FnOnce(&NameKey) -> Result<AccountVerifier>) -> Result<Self> {
        let name_key = NameKey::new(Secret::new([1; 32]));
        let verifier = verifier(&name_key)?;
        let account = Account { service: service()?, client: client()?, verifier, enabled: true, index: 0 };
        let (directory, _) = Directory::new(name_key, Secret::new([2; 32]), [account])?;
        Ok(Self { directory, parameters: SessionParameters::from_limits(limits)? })
    }

    /// Lets a client in.
    pub(super) async fn log_in(&self, stream: &mut server::TlsStream<TcpStream>) -> Result<Authenticated> {
        let exporter = tls::exporter(stream.get_ref().1)?;
        Ok(login_server(stream, exporter, &self.directory, self.parameters, |_| true, |_| Duration::ZERO)
            .await?)
    }
}

/// Logs in with the account's key, and asks for a service on the way.
pub(super) async fn log_in_with_key(
    stream: &mut client::TlsStream<TcpStream>,
    limits: &Limits,
    codec: Codec,
    args: &[u8],
) -> Result<Authenticated> {
    let exporter = tls::exporter(stream.get_ref().1)?;
    let key = key()?;
    let login = prepare(Credential::Key(&key)).await?;
    Ok(login.start_early(limits, &OpenRequest::new(codec, args)).run(stream, exporter).await?)
}

async fn prepare(credential: Credential<'_>) -> Result<ClientLogin<'_>> {
    let target = Target { host: "localhost".into(), service: service()?, client: client()? };
    Ok(ClientLogin::prepare(target, credential).await)
}

fn service() -> Result<ServiceName> {
    Ok(ServiceName::new(NAME)?)
}

fn client() -> Result<ClientId> {
    Ok(ClientId::new(NAME)?)
}

/// What a chan-server is told of a service that echoes, and of who may use it.
pub(super) fn configured_account() -> Result<String> {
    let key = key()?.public_key();
    Ok(format!(
        "[[service]]\nname = \"{NAME}\"\nmfa = [\"echo\", \"start\"]\n\n\
         [[service.client]]\nname = \"{NAME}\"\nkey = \"{key}\"\n"
    ))
}

fn key() -> Result<PrivateKey> {
    Ok(PrivateKey::from_seed(Secret::new(KEY))?)
}

pub(super) async fn serve_handshakes(server: Server) -> Result<()> {
    server.accept_all(until_closed).await
}

pub(super) async fn serve_logins(server: Server, accounts: Accounts) -> Result<()> {
    let accounts = Arc::new(accounts);
    server
        .accept_all(move |mut stream| {
            let accounts = Arc::clone(&accounts);
            async move {
                accounts.log_in(&mut stream).await?;
                until_closed(stream).await
            }
        })
        .await
}

async fn until_closed(mut stream: server::TlsStream<TcpStream>) -> Result<()> {
    let read = stream.read(&mut [0]).await?;
    anyhow::ensure!(read == 0, "a connection that should be closed brought a byte");
    Ok(())
}

/// What is done again and again.
pub(super) trait Attempt: Clone + Send + Sync + 'static {
    fn make(&self) -> impl Future<Output = Result<client::TlsStream<TcpStream>>> + Send;
}

/// A TLS handshake.
#[derive(Clone)]
pub(super) struct Handshake(pub(super) Client);

impl Attempt for Handshake {
    async fn make(&self) -> Result<client::TlsStream<TcpStream>> {
        self.0.connect().await
    }
}

/// A TLS handshake and a login, with a password whose key has been derived once.
#[derive(Clone)]
pub(super) struct Login {
    client: Client,
    password: Password,
}

impl Login {
    pub(super) fn new(client: Client) -> Result<Self> {
        Ok(Self { client, password: Password::new(PASSWORD)? })
    }

    /// Logs in after the handshake.
    pub(super) async fn log_in(&self, stream: &mut client::TlsStream<TcpStream>) -> Result<()> {
        let exporter = tls::exporter(stream.get_ref().1)?;
        prepare(Credential::Password(&self.password)).await?.run(stream, exporter).await?;
        Ok(())
    }
}

impl Attempt for Login {
    async fn make(&self) -> Result<client::TlsStream<TcpStream>> {
        let mut stream = self.client.connect().await?;
        self.log_in(&mut stream).await?;
        Ok(stream)
    }
}

pub(super) async fn measure(attempt: impl Attempt, length: Duration) -> Result<Sample> {
    attempt.make().await?.shutdown().await?;
    let clock = Clock::start(length);
    let attempting: Vec<_> =
        (0..CONNECTORS).map(|_| tokio::spawn(make_until_over(attempt.clone(), clock))).collect();
    let mut made = 0;
    for attempting in attempting {
        made += attempting.await??;
    }
    Ok(clock.sample(made))
}

async fn make_until_over(attempt: impl Attempt, clock: Clock) -> Result<u64> {
    let mut made = 0;
    while !clock.is_over() {
        attempt.make().await?.shutdown().await?;
        made += 1;
    }
    Ok(made)
}
