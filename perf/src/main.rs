//! The load generator and bench runner: see `perf/README.md`.
#![forbid(unsafe_code)]

mod bench;
mod carry;
mod client;
mod compare;
mod connect;
mod durable;
mod epoll;
mod failure;
mod io;
mod options;
mod pacing;
mod procfs;
mod reflect;
mod report;
mod run;
mod scenario;
mod sequence;
mod staged;
mod streams;
mod template;
mod transports;
mod uring;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let options: options::Options = argh::from_env();
    match options::execute(options) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("ringtide-perf: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
