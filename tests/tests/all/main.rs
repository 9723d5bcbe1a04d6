//! The three crates together, with the real programs.

mod endings;
mod exit_codes;
mod main_job;
