//! Serves named services to untrusted networks: TLS 1.3, a login in which both ends prove themselves, and a process for
//! each client.
//!
//! A program that embeds a server uses
//!
//! 1. a [`Service`](config::Service): a name, a function, and the passwords or keys of its clients;
//! 2. a [`Config`](config::Config), made in the program or loaded from a file;
//! 3. a [`StateDir`](identity::StateDir) for the server's key, and an [`Audit`](audit::Audit) for its log;
//! 4. a [`Server`], and its [`Handle`] to reload the configuration and to list and end sessions.
//!
//! The features `cli` and `jemalloc`, on by default, are for the command-line program. Programs that embed the server turn
//! them off.
//!
//! ```no_run
//! use chan_server::config::{Config, Service};
//! use chan_server::{Server, audit::Audit, identity::StateDir};
//! use lib_chan::{Channel, Message, secret::Password};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let echo = Service::new("echo", |mut chan: Channel<String>| async move {
//!     while let Some(Message::Cast(text)) = chan.recv().await {
//!         chan.remote().cast(text).await?;
//!     }
//!     Ok(())
//! })?;
//! let echo = echo.password(Password::from_file("echo.password")?);
//! let config = Config::new(["127.0.0.1:1234".parse()?]).service(echo);
//! let server = Server::bind(config, &StateDir::at("state"), Audit::stderr()).await?;
//! println!("{}", server.urls()[0].url);
//! server.run_until(tokio::signal::ctrl_c()).await?;
//! # Ok(())
//! # }
//! ```

pub mod audit;
#[cfg(feature = "cli")]
pub mod command;
pub mod config;
mod connection;
mod descriptors;
pub mod gate;
pub mod identity;
pub mod listener;
pub mod live;
mod metrics;
pub mod modules;
mod policy;
mod proxy_protocol;
mod quota;
pub mod reload;
pub mod resume;
mod scrape;
mod server;
mod shared;
mod start;
mod traffic;
mod units;
mod words;

pub use descriptors::raise_descriptor_limit;
pub use policy::Revoked;
pub use server::{Cutter, Handle, Server, ServiceUrl, Status};
pub use start::StartError;
