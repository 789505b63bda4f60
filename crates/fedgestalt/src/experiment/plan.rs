//! What an experiment is asked for: a TOML file.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use domain::draw::Draw;
use serde::Deserialize;

use crate::config::Config;

/// A grid: every method for every number of sites, draw and seed.
#[derive(Debug, Clone)]
pub struct GridPlan {
    /// The cohort's folder.
    pub cohort: PathBuf,
    /// A network that takes the place of the methods' shared one.
    pub trunk: Option<PathBuf>,
    /// Numbers of sites.
    pub sites: Vec<u16>,
    /// Ways to hand patients to sites.
    pub draws: Vec<Draw>,
    /// Seeds: of the draw, of training, of everything random.
    pub seeds: Vec<u64>,
    /// What is compared.
    pub methods: Vec<Method>,
    /// Whether each site also trains by itself, which takes most of a cell with many sites.
    pub local: bool,
    /// The file as it was read.
    pub text: String,
}

/// A configuration with a name.
#[derive(Debug, Clone)]
pub struct Method {
    /// Its name in the table and in folders.
    pub name: String,
    /// What it does; sites, draw and seed are the cell's.
    pub config: Config,
}

/// One run of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// The method's place in the plan.
    pub method: usize,
    /// Sites that train together.
    pub sites: u16,
    /// How patients fall to them.
    pub draw: Draw,
    /// The seed.
    pub seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cohort: PathBuf,
    trunk: Option<PathBuf>,
    sites: Vec<u16>,
    draws: Vec<Draw>,
    seeds: Vec<u64>,
    #[serde(default = "yes")]
    local: bool,
    methods: Vec<WrittenMethod>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMethod {
    name: String,
    config: Option<PathBuf>,
}

impl GridPlan {
    /// Reads a plan and the configurations it names.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is not TOML, has an unknown key, lacks one or has an impossible value; file and key
    /// are named.
    pub fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the plan {name}"))?;
        let base = file.parent().unwrap_or(Path::new(""));
        Self::parse(text, base).with_context(|| format!("{name} is not a plan of an experiment"))
    }

    /// Reads the text of a plan; its paths start from `base`.
    ///
    /// # Errors
    ///
    /// As [`GridPlan::read`].
    pub fn parse(text: String, base: &Path) -> Result<Self> {
        let written: Written = toml::from_str(&text)?;
        distinct("sites", &written.sites)?;
        if let Some(sites) = written.sites.iter().find(|sites| !(3..=100).contains(*sites)) {
            anyhow::bail!("sites: {sites} is impossible; a secure sum needs 3 to 100");
        }
        distinct("draws", &written.draws)?;
        distinct("seeds", &written.seeds)?;
        distinct("[[methods]] name", written.methods.iter().map(|method| &method.name))?;
        let methods = written.methods.into_iter().map(|method| read_method(method, base));
        Ok(Self {
            cohort: base.join(written.cohort),
            trunk: written.trunk.map(|trunk| base.join(trunk)),
            sites: written.sites,
            draws: written.draws,
            seeds: written.seeds,
            methods: methods.collect::<Result<_>>()?,
            local: written.local,
            text,
        })
    }

    /// The cells in the order of the plan.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for method in 0..self.methods.len() {
            for &sites in &self.sites {
                for &draw in &self.draws {
                    cells.extend(self.seeds.iter().map(|&seed| Cell { method, sites, draw, seed }));
                }
            }
        }
        cells
    }

    /// A cell's name, and its folder's.
    pub fn name(&self, cell: &Cell) -> String {
        let draw = cell.draw.to_string().replace(':', "-");
        format!("{}-{}-{draw}-seed{}", self.methods[cell.method].name, cell.sites, cell.seed)
    }

    /// A cell's configuration.
    pub fn config(&self, cell: &Cell) -> Config {
        let mut config = self.methods[cell.method].config.clone();
        config.federation.sites = cell.sites;
        config.federation.draw = cell.draw;
        config.training.seed = cell.seed;
        config
    }
}

fn read_method(method: WrittenMethod, base: &Path) -> Result<Method> {
    let WrittenMethod { name, config } = method;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure!(
        (1..=64).contains(&name.len()) && name.chars().all(plain),
        "[[methods]] name {name:?} is impossible; give 1 to 64 letters, digits, '-' or '_'"
    );
    let config = match config {
        Some(file) => {
            Config::read(&base.join(file)).with_context(|| format!("[[methods]] {name:?}: config"))?
        }
        None => Config::default(),
    };
    Ok(Method { name, config })
}

/// A list of the plan must say something, and nothing twice.
fn distinct(key: &str, values: impl IntoIterator<Item: Display>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for value in values {
        let value = value.to_string();
        ensure!(!seen.contains(&value), "{key}: {value} is given twice");
        seen.insert(value);
    }
    ensure!(!seen.is_empty(), "{key}: the list is empty; give at least one");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLAN: &str = r#"
cohort = "cohort"
trunk = "net.onnx"
sites = [4, 50]
draws = ["near-uniform", "dirichlet:0.5"]
seeds = [1, 2, 3]
[[methods]]
name = "paper"
"#;

    fn parse(text: &str) -> Result<GridPlan> {
        GridPlan::parse(text.to_owned(), Path::new("/plans"))
    }

    #[test]
    fn a_grid_has_every_combination_once_under_its_own_name() {
        let plan = parse(&format!("{PLAN}[[methods]]\nname = \"other\"\n")).unwrap();
        let cells = plan.cells();
        assert_eq!(cells.len(), 2 * 2 * 2 * 3);
        let names: BTreeSet<String> = cells.iter().map(|cell| plan.name(cell)).collect();
        assert_eq!(names.len(), cells.len());
        assert!(names.contains("other-50-dirichlet-0.5-seed3"), "{names:?}");
        let config = plan.config(&cells[cells.len() - 1]);
        let cell = (config.federation.sites, config.federation.draw, config.training.seed);
        assert_eq!(cell, (50, Draw::Dirichlet(0.5), 3));
        assert_eq!(plan.cohort, Path::new("/plans/cohort"), "paths start from the plan");
        assert_eq!(plan.trunk.unwrap(), Path::new("/plans/net.onnx"));
        assert!(plan.local && !parse(&format!("local = false\n{PLAN}")).unwrap().local);
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        let cases = [
            ("sites = [4, 50]", "sites = [2]", "sites: 2"),
            ("sites = [4, 50]", "sites = []", "sites: the list is empty"),
            ("sites = [4, 50]", "sites = [4, 4]", "sites: 4 is given twice"),
            ("sites = [4, 50]", "sites = 4", "sites"),
            ("sites = [4, 50]", "", "sites"),
            ("seeds = [1, 2, 3]", "seeds = [-1]", "seeds"),
            ("seeds = [1, 2, 3]", "seeds = [7, 7]", "seeds: 7 is given twice"),
            ("\"dirichlet:0.5\"", "\"fair\"", "draws"),
            ("trunk = ", "trank = ", "trank"),
            ("cohort = \"cohort\"", "", "cohort"),
            ("name = \"paper\"", "name = \"a/b\"", "a/b"),
            ("name = \"paper\"", "name = \"a\"\n[[methods]]\nname = \"a\"", "[[methods]] name: a"),
            ("name = \"paper\"", "name = \"a\"\nconfig = \"none.toml\"", "\"a\": config"),
            ("[[methods]]\nname = \"paper\"", "methods = []", "[[methods]] name: the list is empty"),
        ];
        for (from, to, named) in cases {
            assert!(PLAN.contains(from), "{from}");
            let error = format!("{:#}", parse(&PLAN.replace(from, to)).unwrap_err());
            assert!(error.contains(named), "{to}: {error}");
        }
    }
}
