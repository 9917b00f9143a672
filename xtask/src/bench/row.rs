//! A row of the table: a measurement with its yardstick and its goal.

use serde_json::{Value, json};

/// A result: ours against theirs. `None` for values that a bench does not have.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) bench: &'static str,
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) ours: f64,
    pub(super) theirs: Option<f64>,
    pub(super) ratio: Option<f64>,
    pub(super) goal: Option<f64>,
    pub(super) met: Option<bool>,
}

impl Row {
    /// A rate against another: larger is better, the ratio is ours by theirs.
    pub(super) fn rate(bench: &'static str, name: &str, ours: f64, theirs: f64, goal: Option<f64>) -> Row {
        let ratio = ours / theirs;
        Row {
            bench,
            name: name.to_owned(),
            unit: "MB/s",
            ours,
            theirs: Some(theirs),
            ratio: Some(ratio),
            goal,
            met: goal.map(|goal| ratio >= goal),
        }
    }

    /// A time that must not exceed its goal, in milliseconds.
    pub(super) fn time(bench: &'static str, name: &str, ours: f64, goal: f64) -> Row {
        let met = Some(ours <= goal);
        Row { goal: Some(goal), met, ..Row::proportion(bench, name, "ms", ours) }
    }

    /// A ratio on its own.
    pub(super) fn proportion(bench: &'static str, name: &str, unit: &'static str, ours: f64) -> Row {
        Row { bench, name: name.to_owned(), unit, ours, theirs: None, ratio: None, goal: None, met: None }
    }

    /// Our share of theirs, which must not exceed its goal.
    pub(super) fn share(
        bench: &'static str,
        name: &str,
        unit: &'static str,
        ours: f64,
        theirs: f64,
        goal: Option<f64>,
    ) -> Row {
        let ratio = ours / theirs;
        Row {
            bench,
            name: name.to_owned(),
            unit,
            ours,
            theirs: Some(theirs),
            ratio: Some(ratio),
            goal,
            met: goal.map(|goal| ratio <= goal),
        }
    }

    /// A size that must not exceed its goal.
    pub(super) fn size(bench: &'static str, name: &str, ours: u64, goal: u64) -> Row {
        Row {
            bench,
            name: name.to_owned(),
            unit: "bytes",
            ours: ours as f64,
            theirs: None,
            ratio: None,
            goal: Some(goal as f64),
            met: Some(ours <= goal),
        }
    }

    pub(super) fn json(&self) -> Value {
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        // Sizes are integers and are printed as such.
        let whole =
            |number: f64| if self.unit == "bytes" { json!(number as u64) } else { json!(round(number)) };
        json!({
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "ours": whole(self.ours),
            "theirs": self.theirs.map(whole),
            "ratio": self.ratio.map(round),
            "goal": self.goal.map(whole),
            "met": self.met,
        })
    }

    pub(super) fn cells(&self) -> [String; 7] {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let digits = match self.unit {
            "to 1" | "of 1" | "s" => 2,
            "ms" | "MiB" => 1,
            _ => 0,
        };
        // The goal of a rate is a ratio, the goal of a size is a size.
        let goal_digits = if self.ratio.is_some() { 2 } else { 0 };
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        [
            self.name.clone(),
            number(Some(self.ours), digits),
            number(self.theirs, digits),
            self.unit.to_owned(),
            number(self.ratio, 2),
            number(self.goal, goal_digits),
            met.to_owned(),
        ]
    }
}

/// The median; of an even number the mean of the two in the middle.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
    if numbers.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_goal_is_met_from_its_value_on() {
        assert_eq!(Row::rate("dump", "a", 70.0, 100.0, Some(0.7)).met, Some(true));
        assert_eq!(Row::rate("dump", "a", 69.0, 100.0, Some(0.7)).met, Some(false));
        assert_eq!(Row::rate("dump", "a", 69.0, 100.0, None).met, None);
        assert_eq!(Row::size("footprint", "stack", 8192, 8192).met, Some(true));
        assert_eq!(Row::size("footprint", "stack", 8193, 8192).met, Some(false));
    }

    #[test]
    fn the_machine_form_has_all_keys() {
        let value = Row::size("footprint", "arena", 5, 8).json();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["bench", "goal", "met", "name", "ours", "ratio", "theirs", "unit"]);
    }
}
