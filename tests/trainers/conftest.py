"""Training runs small enough for a test."""

import pytest

from vlm2rec_hf import PreparedCatalogue, VLM2RecTrainer, VLM2RecTrainingArguments


@pytest.fixture
def trainer(tiny, demo_dataset, tmp_path):
    """`trainer(model, processor, catalogue=..., **arguments)`: on the demo shop, quiet, on the CPU; all optional."""

    def make(
        model=None,
        processor=None,
        fusion="external",
        catalogue=None,
        evaluator=None,
        peft_config=None,
        eval_dataset=None,
        **options,
    ):
        if model is None:
            model, processor = tiny("qwen2_vl", fusion)
        processor.max_history = options.get("max_history", 3)
        arguments = VLM2RecTrainingArguments(
            **{
                "output_dir": str(tmp_path / "run"),
                "max_steps": 2,
                "per_device_train_batch_size": 8,
                "logging_steps": 1,
                "save_strategy": "no",
                "disable_tqdm": True,
                "use_cpu": True,
                "learning_rate": 1e-3,
                "validation_users": 10,
                **options,
            }
        )
        return VLM2RecTrainer(
            model,
            arguments,
            train_dataset=demo_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            catalogue=catalogue or PreparedCatalogue(demo_dataset.catalogue_items(), processor),
            evaluator=evaluator,
            peft_config=peft_config,
        )

    return make
