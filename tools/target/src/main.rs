//! The target as a program: serves image files on loopback, for demonstrations and benches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use snapbrowse_target::{Chap, Config, DigestSupport, Disk, Lun, Server, Target};

/// A small, read-only iSCSI target that needs no root
#[derive(Parser)]
#[command(name = "snapbrowse-target", version)]
struct Options {
    /// Where to listen (ADDRESS:PORT, IPv6 in brackets); port 0 picks one; repeatable
    #[arg(long = "portal", value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    portals: Vec<SocketAddr>,
    /// An image file to serve, as N=FILE for LUN N; without N they count from 1; repeatable
    #[arg(long = "lun", value_name = "[N=]FILE", required = true, value_parser = lun)]
    luns: Vec<(Option<u16>, PathBuf)>,
    /// The name of the target
    #[arg(long, value_name = "IQN", default_value = "iqn.2026-01.org.snapbrowse:demo")]
    target: String,
    /// Logical block size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = block_size)]
    block_size: u32,
    /// The name that initiators must log in with (CHAP)
    #[arg(long, value_name = "NAME", requires = "chap_password_file")]
    chap_user: Option<String>,
    /// The first line of this file is the secret that goes with it
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    chap_password_file: Option<PathBuf>,
    /// The name by which the target proves itself where asked to (mutual CHAP)
    #[arg(long, value_name = "NAME", requires = "mutual_password_file", requires = "chap_user")]
    mutual_user: Option<String>,
    /// The first line of this file is the secret that goes with it
    #[arg(long, value_name = "FILE", requires = "mutual_user")]
    mutual_password_file: Option<PathBuf>,
    /// Answer each request this much later, to the millisecond
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// How many commands a session may have in flight
    #[arg(long, value_name = "N", default_value_t = 128)]
    queue_depth: u32,
    /// Insist on CRC32C for headers and data
    #[arg(long)]
    digests: bool,
}

fn lun(text: &str) -> Result<(Option<u16>, PathBuf), String> {
    match text.split_once('=').map(|(number, file)| (number.parse::<u16>(), file)) {
        Some((Ok(number), file)) if number < 16384 => Ok((Some(number), file.into())),
        Some((Ok(number), _)) => Err(format!("LUN {number} is above 16383")),
        _ => Ok((None, text.into())),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(size @ (512 | 4096)) => Ok(size),
        _ => Err("512 or 4096".into()),
    }
}

fn secret(file: &PathBuf) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    text.lines().next().map(str::to_owned).ok_or_else(|| format!("{}: empty", file.display()))
}

fn config(options: Options) -> Result<Config, String> {
    let mut target = Target::new(&options.target);
    let mut next = 1;
    for (number, file) in &options.luns {
        let disk = Disk::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let number = number.unwrap_or(next);
        next = number + 1;
        let serial = format!("{number:04}");
        target = target.lun(Lun::new(number, serial, disk).block_size(options.block_size));
    }
    if let (Some(user), Some(file)) = (&options.chap_user, &options.chap_password_file) {
        let mut chap = Chap::new(user, secret(file)?);
        if let (Some(user), Some(file)) = (&options.mutual_user, &options.mutual_password_file) {
            chap = chap.mutual(user, secret(file)?);
        }
        target = target.chap(chap);
    }
    let digests = if options.digests { DigestSupport::Require } else { DigestSupport::Allow };
    Ok(Config {
        portals: options.portals,
        targets: vec![target],
        latency: options.latency,
        queue_depth: options.queue_depth,
        header_digest: digests,
        data_digest: digests,
        forgiving: true,
        ..Config::default()
    })
}

async fn serve(options: Options) -> Result<(), String> {
    let name = options.target.clone();
    let config = config(options)?;
    let luns: Vec<_> = config.targets[0].luns().map(Lun::number).collect();
    let server = Server::start(config).await.map_err(|e| format!("listen: {e}"))?;
    for portal in server.portals() {
        println!("portal {portal}");
        for lun in &luns {
            println!("url iscsi://{portal}/{name}/{lun}");
        }
    }
    println!("ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| format!("signals: {e}"))?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("snapbrowse-target: {message}");
            ExitCode::FAILURE
        }
    }
}
