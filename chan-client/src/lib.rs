//! Client of lib_chan services: connects by a URL, proves the password, hands out a channel.
//!
//! [`connect`](connect()) is where to begin; [`url`] says what a URL is, and [`trust`] how a server is known. The
//! program `chan-client` is [`command`].
//!
//! ```no_run
//! use chan_client::connect;
//! use lib_chan::{Channel, secret::Password};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let password = Password::new("correct horse battery staple")?;
//! let url = "chan://example.net:1234/echo?system";
//! let chan: Channel<String> = connect(url).password(&password).open().await?;
//! chan.remote().cast("hello").await?;
//! chan.close().await?;
//! # Ok(())
//! # }
//! ```

mod bookmark;
pub mod command;
mod config_file;
pub mod connect;
mod identity;
mod json;
mod known_hosts;
pub mod trust;
pub mod url;

pub use bookmark::{BookmarkError, Bookmarks};
pub use config_file::FileError;
pub use connect::connect;
pub use known_hosts::{KnownHosts, KnownHostsError};
