//! The three crates together, with the real programs.

#![allow(clippy::disallowed_methods, reason = "tests measure time themselves")]

<<<<<<< HEAD
mod differential;
=======
mod attacks;
>>>>>>> e2e
mod endings;
mod exit_codes;
mod main_job;
mod python;
mod relay;
