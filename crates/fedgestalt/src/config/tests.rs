#![allow(clippy::unwrap_used)]
use learn::FormSettings;

use super::*;

#[test]
fn the_file_that_init_writes_says_the_defaults() {
    assert_eq!(Config::parse(TEMPLATE).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
    assert_eq!(Config::parse(&recipe_template()).unwrap(), Config::default().as_recipe());
}

#[test]
fn the_file_that_init_writes_names_every_key() {
    let written: toml::Table = toml::from_str(TEMPLATE).unwrap();
    let all: toml::Table = toml::from_str(&Config::default().to_toml().unwrap()).unwrap();
    for (section, keys) in &all {
        match keys {
            toml::Value::Table(keys) => {
                let there = written[section].as_table().unwrap();
                assert!(keys.keys().all(|key| there.contains_key(key)), "[{section}]");
            }
            _ => assert!(written.contains_key(section), "{section}"),
        }
    }
}

/// The recipes' values stand in the file as comments: taken at their word they must change nothing.
#[test]
fn the_commented_values_of_the_recipes_are_the_recipes() {
    let template = recipe_template();
    let uncommented: Vec<&str> = template
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
            _ => line,
        })
        .collect();
    let config = Config::parse(&uncommented.join("\n")).unwrap();
    let defaults = Config::default().as_recipe();
    assert_eq!(config.members.len(), 3);
    for (said, member) in config.members.iter().zip(&defaults.members) {
        assert!(said.kind == MemberKind::Published || said.neck_lr.is_some());
        assert!(said.trunk.is_some());
        assert_eq!(said.recipe(), member.recipe());
    }
}

#[test]
fn the_commented_values_of_closed_forms_are_their_defaults() {
    let keys = ["ridge", "rate", "scale"];
    let uncommented: Vec<&str> = TEMPLATE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if keys.iter().any(|key| rest.starts_with(&format!("{key} = "))) => rest,
            _ => line,
        })
        .collect();
    let config = Config::parse(&uncommented.join("\n")).unwrap();
    for member in &config.members {
        assert!(member.ridge.is_some());
        assert_eq!(member.form(), FormSettings { outputs: member.outputs, ..DEFAULT_FORM });
        assert!(member.refine.is_none() || (member.rate.is_some() && member.scale.is_some()));
        let own = MemberConfig { rate: None, scale: None, ..member.clone() };
        assert_eq!(member.refinement(), own.refinement());
    }
}

#[test]
fn a_ridge_is_a_number_or_left_to_the_sums() {
    let member =
        |ridge: &str| format!("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nridge = {ridge}\n");
    let ridge = |text: &str| Config::parse(&member(text)).unwrap().members[0].form().ridge;
    assert_eq!(ridge("0.1"), learn::Ridge::Fixed(0.1));
    assert_eq!(ridge("1"), learn::Ridge::Fixed(1.0));
    assert_eq!(ridge("\"auto\""), learn::Ridge::HeldOut);
    for (text, word) in [("\"automatic\"", "\"auto\""), ("0.0", "above 0"), ("-1", "above 0")] {
        let error = format!("{:#}", Config::parse(&member(text)).unwrap_err());
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn the_recipe_stands_on_the_members_own_networks() {
    let text = "[[members]]\nname = \"a\"\nkind = \"closed-form\"\ntrunk = \"one.onnx\"\n\
                [[members]]\nname = \"b\"\nkind = \"closed-form\"\ntrunk = \"two.onnx\"\nlift = 8\n";
    let recipe = Config::parse(text).unwrap().as_recipe();
    let trunks: Vec<_> =
        recipe.members.iter().map(|m| m.trunk.as_deref().unwrap().to_str().unwrap()).collect();
    assert_eq!(trunks, ["one.onnx", "two.onnx", "two.onnx"]);
    assert_eq!((recipe.rounds(), Config::parse(text).unwrap().rounds()), (10, 1));
    assert_eq!(Config::parse(&format!("{text}refine = 5\n")).unwrap().rounds(), 6);
    recipe.check().unwrap();
}

#[test]
fn the_recipe_is_trained_the_papers_way_whatever_else_is_configured() {
    let text = "[training]\nrates = \"step\"\nclass_weighting = \"none\"\nstopping = \"loss:2\"\n\
                [federation]\nserver_optimizer = \"adam\"\nserver_rate = 0.1\nproximal = 0.5\nstatistics = \"pooled\"\n";
    let config = Config::parse(text).unwrap();
    assert_eq!(config.tuning().rates, Rates::Step);
    assert_eq!(config.tuning().server.optimizer, ServerOptimizer::Adam);
    assert_eq!(config.as_recipe().tuning(), Tuning::default());
}

#[test]
fn unknown_keys_and_impossible_values_are_refused_by_name() {
    let cases = [
        ("[training]\nepoch = 3", "epoch"),
        ("[trainings]\n", "trainings"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nlr = 1.0", "lr"),
        ("[policy]\nminimum_site = 3", "minimum_site"),
        ("[trunk]\nengine = \"tract\"", "tract"),
        ("[trunk]\nengine = \"rten\"\nprecision = \"bf16\"", "rten computes in f32 only"),
        ("[trunk]\nengine = \"winograd\"\nprecision = \"bf16\"", "winograd computes in f32 only"),
        ("[detector]\nengine = \"winograd\"", "runs trunks only"),
        ("[trunk]\nbatch = 0", "[trunk] batch"),
        (
            "[trunk]\nengine = \"rten\"\n[[members]]\nname = \"a\"\nkind = \"tuned\"\nprecision = \"bf16\"",
            "rten computes in f32 only",
        ),
        ("[training]\nepochs = 0", "[training] epochs"),
        ("[detector]\nsides = []", "[detector] sides"),
        ("[detector]\nsides = [16]", "[detector] sides"),
        ("[detector]\npaddings = [-1.0]", "[detector] paddings"),
        ("[detector]\nthreshold = 1.0", "[detector] threshold"),
        ("[detector]\nmodel = \"yunet.onnx\"", "model"),
        ("[federation]\nsites = 2", "[federation] sites"),
        ("[federation]\nserver_rate = 0.0", "[federation] server_rate"),
        ("[federation]\nserver_optimizer = \"sgd\"", "sgd"),
        ("[federation]\nserver_momentum = 1.0", "[federation] server_momentum"),
        ("[federation]\nproximal = -0.1", "[federation] proximal"),
        ("[federation]\nstatistics = \"summed\"", "summed"),
        ("[training]\nrates = \"linear\"", "linear"),
        ("[training]\nrates = \"plateau:0\"", "plateau:0"),
        ("[training]\nclass_weighting = \"square\"", "square"),
        ("[training]\nstopping = \"loss:0\"", "loss:0"),
        ("[federation]\ndraw = \"fair\"", "fair"),
        ("[federation]\nrows = \"shared:0\"", "shared:0"),
        ("[kernel]\ntop = 31", "[kernel] top"),
        ("[kernel]\ndistance_step = nan", "distance_step"),
        ("[kernel]\nnormalisation = \"z:2\"", "z:2"),
        ("[kernel]\npooling = \"mean\"", "mean"),
        ("members = []", "[[members]]"),
        ("[[members]]\nname = \"a/b\"\nkind = \"tuned\"", "a/b"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nbatch = 1", "batch"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nlift = 64", "only a closed form has `lift`"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nscale = 8.0", "arcface\" has `scale`"),
        ("[[members]]\nname = \"a\"\nkind = \"published\"\nclassifier = \"cosine\"", "only a tuned member"),
        (
            "[[members]]\nname = \"a\"\nkind = \"tuned\"\nclassifier = \"cosine\"\nmargin = 0.1",
            "has `margin`",
        ),
        (
            "[[members]]\nname = \"a\"\nkind = \"tuned\"\nclassifier = \"arcface\"\nmargin = 2.0",
            "`margin` is 2",
        ),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nclassifier = \"sphere\"", "sphere"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nstart = \"random\"", "random"),
        (
            "[[members]]\nname = \"a\"\nkind = \"published\"\nstart = \"closed-form\"",
            "only a tuned member has `start`",
        ),
        ("[kernel]\nweights = \"learned\"", "learned"),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nlift = 0", "lift must be 1"),
        (
            "[[members]]\nname = \"a\"\nkind = \"closed-form\"\njoint = 8\nlift = 8",
            "leave `lift`, `projection`",
        ),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nrefine = 0", "refine must be 1"),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nrate = 0.1", "`rate` is of the steps"),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nrefine = 5\nrate = 2.0", "rate 2 must be"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\nrefine = 5", "only a closed form has `refine`"),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\nlift = 8\nprojection = 8", "leave `lift`"),
        ("[[members]]\nname = \"a\"\nkind = \"closed-form\"\noutputs = 0", "outputs"),
        ("[[members]]\nname = \"a\"\nkind = \"tuned\"\n[[members]]\nname = \"a\"\nkind = \"tuned\"", "twice"),
    ];
    for (text, named) in cases {
        let error = format!("{:#}", Config::parse(text).unwrap_err());
        assert!(error.contains(named), "{text:?}: {error}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let mut config = Config::default();
    config.trunk.file = Some("nets/r50.onnx".into());
    config.trunk.cut = Cut::Node("Flatten_123".into());
    config.trunk.engine = Engine::OpenVino;
    config.trunk.precision = Precision::Bf16;
    config.trunk.openvino = Some("/opt/openvino".into());
    config.federation.rows = Rows::Shared(3);
    config.federation.server_optimizer = ServerOptimizer::Yogi;
    config.federation.statistics = Statistics::Pooled;
    config.training.rates = Rates::Cosine;
    config.training.stopping = Stopping::Loss(3);
    config.federation.draw = Draw::Dirichlet(0.5);
    config.members = config.as_recipe().members;
    config.members[0].neck_lr = Some(1e-4);
    config.members[0].start = Some(StartName::ClosedForm);
    config.kernel.weights = MemberWeights::Fitted;
    assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
}

#[test]
fn paths_start_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    std::fs::write(&file, "[trunk]\nfile = \"net.onnx\"\n").unwrap();
    let config = Config::read(&file).unwrap();
    let trunk = config.trunk.file.as_deref().unwrap();
    assert_eq!(config.resolve(trunk), folder.path().join("net.onnx"));
    assert_eq!(config.resolve(Path::new("/net.onnx")), Path::new("/net.onnx"));
    // Engines are the machine's: a model's configuration takes them from the one at hand.
    let mut here = Config::default();
    (here.trunk.engine, here.trunk.openvino) = (Engine::OpenVino, Some("libs".into()));
    here.base = "/machine".into();
    let both = config.on_machine_of(&here);
    assert_eq!(both.trunk.engine, Engine::OpenVino);
    assert_eq!(both.trunk.openvino.as_deref(), Some(Path::new("/machine/libs")));
    assert_eq!(both.resolve(both.trunk.file.as_deref().unwrap()), folder.path().join("net.onnx"));
}
