//! Hostile devices: any bytes define a device, its troubles, the steps of a dump, and its lies. The fuzzer
//! generates the bytes; each test run repeats the inputs that it has kept.

use dump_drivers::fake::{About, Change, FakeDisk as _, Liar, Lie, Trouble};

use crate::kind::{BLOCKS, Kind};
use crate::run::{Run, Step, Trust, all_troubles};

/// Maximum number of steps per run.
const STEPS: u8 = 16;
/// Maximum number of lies per run.
const LIES: usize = 64;

/// Bytes, followed by zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }

    fn trouble(&mut self) -> Trouble {
        let (which, at) = (self.byte(), self.byte());
        let all = all_troubles(u32::from(at % 12));
        all[usize::from(which) % all.len()]
    }

    fn step(&mut self) -> Step {
        let (kind, block, seed) = (self.byte(), u64::from(self.byte()) % BLOCKS, self.byte());
        let count = (1 + usize::from(kind >> 4) % 11).min((BLOCKS - block) as usize);
        match kind & 7 {
            0..=2 => Step::Write { block, count, seed },
            3 | 4 => Step::Read { block, count },
            5 => Step::Poll { times: 1 + seed % 7 },
            6 => Step::Flush,
            _ => Step::OneBlock { block, seed },
        }
    }

    fn lie(&mut self) -> Lie {
        let (kind, after, place) = (self.byte(), self.byte(), self.number(2) as u16);
        let about = [About::Answer, About::Answer, About::Written, About::Memory][usize::from(kind & 3)];
        // Early, or late.
        let after = if after < 200 { after.into() } else { u16::from(after - 199) * 200 };
        let change = match kind >> 2 & 7 {
            0 => Change::To(0),
            1 => Change::To(u64::MAX),
            2 => Change::To(self.number(1)),
            3 => Change::To(self.number(4)),
            4 => Change::To(self.number(8)),
            5 => Change::Flip(self.byte()),
            6 => Change::Add(self.byte() as i8),
            _ => Change::Stays(self.number(4), self.number(2) as u16),
        };
        Lie { about, after, place, change }
    }
}

/// Runs a dump on a lying device. Whatever it answers, nothing panics, each call ends in time, and only
/// requests complete, once each. As long as the lies are not about the device's identity or about requests,
/// only requested blocks are written. And when the lies end, the driver works.
pub fn a_driver_comes_to_no_harm<K: Kind>(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let (coherent, everywhere) = (flags & 1 == 0, flags & 8 != 0);
    let seed = input.number(8);
    let troubles =
        (0..input.byte() % 3).map(|_| input.trouble()).filter(|trouble| K::knows(*trouble)).collect();
    let steps: Vec<Step> = (0..input.byte() % (STEPS + 1)).map(|_| input.step()).collect();
    let mut lies = Vec::new();
    while !input.0.is_empty() && lies.len() < LIES {
        lies.push(input.lie());
    }
    let trust = match flags >> 1 & 3 {
        _ if lies.is_empty() => Trust::Whole,
        _ if everywhere => Trust::Nothing,
        0 | 1 => Trust::Nature,
        2 => Trust::Requests,
        _ => Trust::Nothing,
    };
    let opening = trust == Trust::Nothing && !everywhere;
    let opened = Run::<K>::over(seed, coherent, troubles, |fake| {
        if opening {
            fake.set_liar(Liar::new(&lies, 0..0, false));
        }
    });
    let Ok(mut run) = opened else { return };
    run.faulty |= !lies.is_empty();
    run.trust = trust;
    // Memory shared with devices comes after the dump's stack.
    let first = run.rig.arena.physical();
    let stack = (dumpcore::stack::RED_ZONE + dumpcore::stack::STACK_SIZE) as u64;
    let shared = first + stack..first + run.rig.arena.used() as u64;
    let result = attempt(&mut run, &Liar::new(&lies, shared, everywhere), &steps);
    run.check_disk();
    if result.is_err() || !lies.is_empty() {
        run.recovers();
    }
}

fn attempt<K: Kind>(
    run: &mut Run<K>,
    liar: &Liar,
    steps: &[Step],
) -> Result<(), dumpcore::device::DeviceError> {
    if run.trust > Trust::Nature {
        run.rig.fake.set_liar(liar.clone());
    }
    run.rig.quiesce()?;
    run.rig.fake.set_liar(liar.clone());
    for step in steps {
        run.step(step)?;
    }
    run.drain(0)?;
    run.rig.shutdown()
}

/// Lies reach the driver: a device that answers each read with ones cannot be taken over.
#[cfg(not(fuzzing))]
pub fn a_device_that_answers_nothing_but_ones_is_not_believed<K: Kind>() {
    let mut run = Run::<K>::over(0, true, Vec::new(), |_| {}).expect("opens");
    let ones = Lie { about: About::Answer, after: 0, place: 0, change: Change::To(u64::MAX) };
    run.rig.fake.set_liar(Liar::new(&[ones; 4096], 0..0, false));
    run.rig.quiesce().expect_err("nobody is there");
    run.rig.fake.set_liar(Liar::default());
    run.rig.quiesce().expect("it was there all the time");
}

/// [`a_driver_comes_to_no_harm`] for all inputs kept by the fuzzer.
#[cfg(not(fuzzing))]
pub fn what_the_fuzzer_has_kept_does_no_harm<K: Kind>() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/");
    let folder = std::path::Path::new(corpus).join(K::CORPUS);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("its bytes");
        // A failure names its input.
        eprintln!("{}", path.display());
        a_driver_comes_to_no_harm::<K>(&bytes);
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
