//! What all the servers here do alike: keep a key and a password, serve, and stop at Ctrl-C.

use std::path::PathBuf;

use anyhow::Context;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chan_server::{Server, audit::Audit, config::Config, identity::StateDir, modules::Modules};
use lib_chan::private;

/// A directory that only its owner may enter. It holds the server's private key, by which clients know it again, and
/// the password of its services.
#[derive(Clone, Debug)]
pub struct Place(StateDir);

impl Place {
    /// `$XDG_STATE_HOME/chan-examples`, or `~/.local/state/chan-examples`; made on first use.
    ///
    /// # Errors
    /// When there is no home, or the directory cannot be made.
    pub fn standard() -> anyhow::Result<Self> {
        Self::at(StateDir::standard()?.path().with_file_name("chan-examples"))
    }

    /// Another directory, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or others may enter it.
    pub fn at(path: PathBuf) -> anyhow::Result<Self> {
        let place = Self(StateDir::at(path));
        place.0.create()?;
        if !place.password_file().exists() {
            // 128 random bits: nobody guesses them, and nobody has to remember them.
            let mut bytes = [0; 16];
            aws_lc_rs::rand::fill(&mut bytes).context("the system gave no random bytes")?;
            private::create(&place.password_file(), BASE64_URL_SAFE_NO_PAD.encode(bytes).as_bytes())?;
        }
        Ok(place)
    }

    /// The file with the password.
    pub fn password_file(&self) -> PathBuf {
        self.0.file("password")
    }

    /// Starts a server for this machine alone, with one service. Its `mfa` is `[module, "start"]`, and the service is
    /// called as the module.
    ///
    /// # Errors
    /// When there is no such module, or no port to listen on.
    pub async fn bind(&self, modules: &Modules, module: &str) -> anyhow::Result<Server> {
        // This could be a file as well: `Config::load`. Port 0 is any that is free.
        let config = format!(
            r#"
            listen = ["127.0.0.1:0"]

            [[service]]
            name = "{module}"
            password_file = "password"
            mfa = ["{module}", "start"]
            "#
        );
        let config = Config::parse(&config, &self.0.file("configuration"), modules)?;
        Ok(Server::bind(config, &self.0, Audit::stderr()).await?)
    }

    /// Says how `client`, another example, reaches the server, and serves until Ctrl-C. Every session then ends with
    /// `shutdown`, and every client knows.
    ///
    /// # Errors
    /// When there is no Ctrl-C to wait for.
    #[expect(clippy::print_stdout, reason = "for the user, who pastes it into another terminal")]
    pub async fn serve(&self, server: Server, client: &str) -> anyhow::Result<()> {
        for url in server.urls() {
            let password_file = private::quoted(&self.password_file());
            println!("cargo run -p chan-examples --example {client} -- '{}' {password_file}", url.url);
        }
        Ok(server.run_until(tokio::signal::ctrl_c()).await?)
    }
}
