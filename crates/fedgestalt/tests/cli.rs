//! The command line as users and their scripts know it: a change of `--help` is a change of the interface, to be made
//! on purpose (`INSTA_UPDATE=always cargo test -p fedgestalt --test cli`, then read the difference).
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use clap::{CommandFactory, Parser};
use fedgestalt::cli::Cli;

/// The help of a command and of all below it.
fn pages(command: &mut clap::Command, path: &str, text: &mut String) {
    let name = format!("{path}{}", command.get_name());
    text.push_str(&format!("$ {name} --help\n{}\n", command.render_long_help()));
    for below in command.get_subcommands_mut() {
        pages(below, &format!("{name} "), text);
    }
}

#[test]
fn help_says_what_it_said() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    pages(&mut command, "", &mut text);
    insta::assert_snapshot!("help", text);
}

#[test]
fn every_argument_and_command_has_help() {
    fn check(command: &clap::Command) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} says nothing of itself", argument.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    let mut command = Cli::command();
    command.build();
    check(&command);
}

#[test]
fn wrong_usage_is_refused_before_anything_is_done() {
    let cases: [&[&str]; 10] = [
        &[],
        &["trian"],
        &["train", "--cohort", "c"],
        &["train", "--central", "--local", "--cohort", "c"],
        &["train", "--central", "--sites", "4", "--cohort", "c"],
        &["demo", "--sites", "2"],
        &["demo", "--draw", "fair"],
        &["demo", "--drop", "1@0"],
        &["rank", "--cohort", "c"],
        &["cohort", "draw", "c"],
    ];
    for args in cases {
        let args = [&["fedgestalt"], args].concat();
        assert!(Cli::try_parse_from(&args).is_err(), "{args:?}");
        let output = Command::new(env!("CARGO_BIN_EXE_fedgestalt")).args(&args[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn options_of_every_command_stand_before_or_behind_it() {
    for args in [["fedgestalt", "--json", "init"], ["fedgestalt", "init", "--json"]] {
        assert!(Cli::try_parse_from(args).unwrap().global.json);
    }
}
