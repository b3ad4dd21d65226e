"""Converts a checkpoint of checkpoints.py to GGUF with llama.cpp's own converter.

    python convert.py LLAMA_CPP_FOLDER CHECKPOINT OUT.gguf bf16|f16

The checkpoints have no tokenizer, which the converter asks for: it is given numbered tokens. llama-bench reads ids alone.
"""

import sys


def main(llama_cpp, checkpoint, out, outtype):
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    import convert_hf_to_gguf
    from conversion.jamba import JambaModel

    def numbered_tokens(model):
        n = model.hparams["vocab_size"]
        model.gguf_writer.add_tokenizer_model("llama")
        model.gguf_writer.add_token_list([f"token{i}" for i in range(n)])
        model.gguf_writer.add_token_scores([0.0] * n)
        model.gguf_writer.add_token_types([1] * n)

    JambaModel.set_vocab = numbered_tokens
    sys.argv = ["convert_hf_to_gguf.py", checkpoint, "--outfile", out, "--outtype", outtype]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
