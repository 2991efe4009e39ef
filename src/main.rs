//! The program: reads the command line and does what it says.

use std::process::ExitCode;

use clap::Parser;
use propylon::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().execute()
}
