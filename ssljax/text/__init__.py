"""Text: vocabulary and tokenizer, the prepared corpus, BERT's sentence-pair instances, batches of them."""
