//! The client against servers on loopback.

mod command;
mod connect;
mod forward;
#[allow(dead_code, unreachable_pub, reason = "the tests of all crates share it")]
#[path = "../../../tests/src/proxy.rs"]
mod proxy;
mod server;
