//! Short programs to learn from. Read them in this order:
//!
//! | program | shows | run it |
//! |---|---|---|
//! | `examples/echo.rs` | a server and a client, in one program | `cargo run -p chan-examples --example echo` |
//! | [`api`], `examples/own_service.rs`, `examples/own_client.rs` | the programs of the README | see there |
//! | [`names`] | a shared process, and a process for each client | `… --example name_server`, `… --example name_client` |
//! | [`chat`] | channels given to another process, monitors | `… --example chat_server`, `… --example chat_client` |
//! | [`jobs`] | a typed protocol, a supervisor, replies that are kept, tests without a network | `… --example job_queue` |
//!
//! Each server prints how to reach it. [`Place`] is where they keep their key and their password.

pub mod api;
pub mod chat;
pub mod jobs;
pub mod names;
mod place;

pub use place::Place;
