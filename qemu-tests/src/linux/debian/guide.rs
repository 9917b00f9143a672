//! The guide that is followed: the commands in linux/README.md, exactly as written there.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

/// The guide.
const TEXT: &str = include_str!("../../../../linux/README.md");

/// Commands that no step runs, given by their beginning, with the reason.
const ELSEWHERE: [(&str, &str); 7] = [
    ("cargo install --locked cargo-deb", "before the walk: it makes the package"),
    ("cargo xtask deb", "before the walk: the row runs it"),
    ("apt install linux-headers-$(uname -r) gcc make", "by hand, with Rust: each row builds the module so"),
    ("make -C linux && make -C linux install", "by hand, with Rust: each row builds the module so"),
    ("echo diskdump >/etc/modules-load.d", "by hand; the package brings that file"),
    ("make -C linux SHIM=rust", "needs a kernel with Rust: the rows of 6.12-rust build the module so"),
    ("readlink -f /sys/block/nvme0n1", "needs an NVMe disk"),
];

/// The guide, and which of its commands have been run.
#[derive(Debug)]
pub(super) struct Guide {
    commands: Vec<String>,
    run: BTreeSet<usize>,
}

impl Guide {
    /// The guide, as compiled in.
    pub(super) fn new() -> Guide {
        Guide {
            commands: blocks(TEXT, "sh").iter().flat_map(|block| commands(block)).collect(),
            run: BTreeSet::new(),
        }
    }

    /// The command that begins like this, with placeholders replaced, each as `(WRITTEN, OURS)`.
    ///
    /// # Errors
    /// If the guide has no such command, or a placeholder is missing.
    pub(super) fn command(&mut self, beginning: &str, places: &[(&str, &str)]) -> Result<String> {
        let found = self.commands.iter().position(|command| command.starts_with(beginning));
        let number = found.with_context(|| {
            format!("linux/README.md has no command any more that begins with `{beginning}`: the walk has to follow")
        })?;
        self.run.insert(number);
        let mut command = self.commands.get(number).cloned().unwrap_or_default();
        for (written, ours) in places {
            ensure!(command.contains(written), "`{written}` is not any more in the guide's `{command}`");
            command = command.replace(written, ours);
        }
        Ok(command)
    }

    /// Checks that every command of the guide was run, or is covered elsewhere.
    ///
    /// # Errors
    /// The command that was not.
    pub(super) fn is_walked(&self) -> Result<()> {
        for (number, command) in self.commands.iter().enumerate() {
            let elsewhere = ELSEWHERE.iter().any(|(beginning, _)| command.starts_with(beginning));
            ensure!(
                self.run.contains(&number) || elsewhere,
                "linux/README.md has a command that no step of the walk runs: `{command}`"
            );
        }
        Ok(())
    }

    /// Number of commands that were run.
    pub(super) fn count(&self) -> usize {
        self.run.len()
    }
}

/// The guide's /etc/savecore.toml, with this partition.
///
/// # Errors
/// If the guide has no such block with exactly one example partition.
pub(super) fn configuration(part_uuid: &str) -> Result<String> {
    let blocks = blocks(TEXT, "toml");
    let block = blocks.iter().find(|block| block.contains("[arm]")).context("the guide has no [arm]")?;
    let example = block.split("PARTUUID=").nth(1).and_then(|rest| rest.split('"').next());
    let example = example.context("the guide's [arm] has no PARTUUID")?;
    Ok(block.replace(example, part_uuid))
}

/// The contents of code blocks in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}");
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match &mut open {
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim() == begin => open = Some(String::new()),
            None => {}
        }
    }
    blocks
}

/// The commands in a block: its lines, without comment lines. A line ending with `\` continues on the next.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", "");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_lines_of_shell_blocks() {
        let text = "a\n```sh\none   # why\n\n# all of it\ntwo \\\n    three\n```\n```toml\nfour = 4\n```\n";
        assert_eq!(
            blocks(text, "sh").iter().flat_map(|block| commands(block)).collect::<Vec<_>>(),
            ["one   # why", "two     three"]
        );
        assert_eq!(blocks(text, "toml"), ["four = 4\n"]);
    }

    #[test]
    fn every_command_of_the_guide_is_a_step_or_is_proved_elsewhere() {
        let mut guide = Guide::new();
        for beginning in super::super::walk::COMMANDS {
            guide.command(beginning, &[]).unwrap();
        }
        guide.is_walked().unwrap();
        for (beginning, _) in ELSEWHERE {
            assert!(guide.commands.iter().any(|command| command.starts_with(beginning)), "{beginning}");
        }
    }

    #[test]
    fn a_command_that_nobody_runs_is_named() {
        let mut guide =
            Guide { commands: vec!["one".to_owned(), "two words".to_owned()], run: BTreeSet::new() };
        assert_eq!(guide.command("two", &[("words", "ours")]).unwrap(), "two ours");
        assert!(guide.is_walked().unwrap_err().to_string().contains("`one`"));
        assert!(guide.command("three", &[]).is_err());
        assert!(guide.command("two", &[("three", "")]).is_err());
    }

    #[test]
    fn the_configuration_has_our_partition() {
        let text = configuration("1234").unwrap();
        assert!(text.contains("PARTUUID=1234\"") && text.contains("[arm]"), "{text}");
    }
}
