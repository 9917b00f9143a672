//! A dump's state in words, for people.

use super::Report;

/// Maximum number of stripes to name.
const SHOWN: usize = 16;

impl Report {
    /// In a few words: complete, or why not.
    pub fn state(&self) -> String {
        let mut text = match self.status {
            "complete" => "complete".to_owned(),
            "incomplete" => match self.reason {
                Some(reason) => format!("incomplete: {reason}"),
                None => "incomplete".to_owned(),
            },
            "saved" => "saved before; its blocks are not free yet".to_owned(),
            _ => "unfinished: the machine stopped while it was written".to_owned(),
        };
        if let Some(headers) = self.headers {
            text = format!("{text}; {headers}");
        }
        match self.encryption {
            "sealed" => text.push_str("; encrypted, and not decrypted: --identity decrypts it"),
            "opened" => text.push_str("; encrypted, and decrypted"),
            "refused" => text.push_str("; encrypted, and not to this key, or damaged throughout"),
            _ => {}
        }
        if self.authentic == Some(false) && self.encryption == "opened" {
            text.push_str("; its headers were changed after the dump");
        }
        for stripe in self.missing_stripes.iter().take(SHOWN) {
            text.push_str(&format!("; stripe {} of {} was not given", u64::from(*stripe) + 1, self.stripes));
        }
        if self.missing_stripes.len() > SHOWN {
            text.push_str("; nor were others");
        }
        if self.damaged {
            text.push_str("; damaged");
        }
        text
    }

    /// The time of the crash, as far as known.
    pub fn when(&self) -> String {
        let uptime = format!("{:.1} s after boot", self.uptime_seconds);
        match &self.time {
            Some(time) => format!("{}, {uptime}", time.replace('T', " ").replace('Z', " UTC")),
            None => format!("time unknown, {uptime}"),
        }
    }

    /// Numbers of missing pages, by reason.
    pub fn missing_by_reason(&self) -> Vec<(u64, &'static str)> {
        let all = self.pages;
        let reasons = [
            (all.unreadable, "the kernel could not read"),
            (all.faulted, "faulted when the kernel read them"),
            (all.damaged, "damaged in the dump"),
            (all.not_written, "not written in time"),
            (all.absent, "not in the dump"),
            (all.untold, "for which this machine has too little memory"),
        ];
        reasons.into_iter().filter(|(number, _)| *number > 0).collect()
    }

    /// Numbers of pages left out on purpose, by class.
    pub fn left_out_by_reason(&self) -> Vec<(u64, &'static str)> {
        let all = self.pages;
        let reasons = [
            (all.free, "free"),
            (all.user, "of user processes"),
            (all.cache, "of the page cache"),
            (all.cache_private, "of the page cache with private data"),
            (all.not_kernel, "not known to be the kernel's"),
            (all.device, "a device's"),
            (all.arena, "the dump's own arena"),
        ];
        reasons.into_iter().filter(|(number, _)| *number > 0).collect()
    }
}
